"""A map-style torch `Dataset` as a source of examples, read in this process or by workers."""

from __future__ import annotations

import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sidetune_core.errors import DataError
from sidetune_core.seeding import derive_seed
from sidetune_core.supervised.dataset_examples import (
    BadExample,
    ExampleReader,
    check_shapes,
    raise_bad,
    shapes_of,
)
from sidetune_core.supervised.dataset_targets import Coder
from sidetune_core.supervised.example_seeds import kept, seed_all, states
from sidetune_core.supervised.sources import LoadedExamples, Request, Source

SAMPLE = 4
"""Examples that are read when a source is made, three times each, to find out whether they are random."""


class ReadError(Exception):
    """An exception of a dataset in a worker process, whose traceback is the message."""


@attrs.frozen
class Failure:
    """An example that could not be read; it may come from a worker process."""

    reason: str
    details: str = ""
    """The traceback of the dataset's exception; empty if it raised none."""


@attrs.frozen(eq=False)
class Fetcher(Dataset[Any]):
    """Reads and converts single examples, by (number, seed).

    Args:
        dataset: of the user.
        reader: converts what it returns.
        coder: encodes targets; None to return them as they are.
        shapes: of the inputs; None where they are not known yet.
    """

    dataset: Any
    reader: ExampleReader
    coder: Coder | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None

    def __getitem__(self, key: tuple[int, int | None]) -> Any:
        """Inputs by name and target, or a `Failure`."""
        row, seed = key
        if seed is not None:
            seed_all(seed)
        try:
            item = self.dataset[row]
        except Exception as error:  # whatever the user's code raises
            return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
        try:
            inputs, target = self.reader.convert(item)
            if self.shapes is not None:
                check_shapes(inputs, self.shapes)
            return inputs, target if self.coder is None else self.coder.encode(target)
        except BadExample as error:
            return Failure(str(error))
        except Exception as error:  # of the user's transforms
            return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


@attrs.frozen
class Randomness:
    """Whether reading an example is random."""

    augments: bool = False
    """It depends on the global generators, or on others."""
    exact: bool = True
    """Two readings under one seed are equal."""


class DatasetSource(Source):
    """The examples of a map-style dataset.

    Example p of a batch is read under the seed of (seed of the request, p), if the dataset is random; in
    evaluations under one of its number, so that these are the same each time.

    Args:
        fetcher: of the dataset, with coder and shapes.
        targets: (N, ...) of all examples.
        first_id: id of the first example.
        randomness: of the dataset.
        workers: processes that read; 0 to read in this one.
        where: the dataset, for messages.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        targets: Tensor,
        first_id: int,
        randomness: Randomness,
        workers: int,
        where: str,
    ) -> None:
        assert fetcher.shapes is not None
        self.shapes = dict(fetcher.shapes)
        self.augments = randomness.augments
        self._fetcher, self._targets, self._first_id = fetcher, targets, first_id
        self._workers, self._where = workers, where

    def __len__(self) -> int:
        return len(self._targets)

    def ids(self, rows: Tensor) -> Tensor:
        return rows + self._first_id

    def targets(self) -> Tensor:
        return self._targets

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        if self._workers:
            yield from self._read_by_workers(requests)
            return
        for request in requests:
            keys = self._keys(request)
            if self.augments:
                with kept():
                    items = [self._fetcher[key] for key in keys]
            else:
                items = [self._fetcher[key] for key in keys]
            yield self._examples(request, stack(items))

    def sample(self, count: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The inputs of some examples, evenly spaced, by their number; read as in evaluations."""
        rows = spaced(len(self), count)
        for row, examples in zip(rows, self.read(Request(torch.tensor([row])) for row in rows), strict=True):
            yield row, {name: value[0] for name, value in examples.inputs.items()}

    def _keys(self, request: Request) -> list[tuple[int, int | None]]:
        """Number and seed of each example of a request."""
        rows = request.rows.tolist()
        if not self.augments:
            return [(row, None) for row in rows]
        if request.seed is None:
            return [(row, derive_seed(0, "evaluate", row)) for row in rows]
        return [(row, derive_seed(request.seed, "example", place)) for place, row in enumerate(rows)]

    def _read_by_workers(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        pending: deque[Request] = deque()

        def drawn() -> Iterator[list[tuple[int, int | None]]]:
            for request in requests:
                pending.append(request)
                yield self._keys(request)

        for stacked in read_by_workers(self._fetcher, drawn(), self._workers, self._where):
            yield self._examples(pending.popleft(), stacked)

    def _examples(self, request: Request, stacked: Any) -> LoadedExamples:
        if isinstance(stacked, dict):
            rows = request.rows.tolist()
            bad = {rows[place]: failure for place, failure in stacked.items()}
            raise_failures(self._where, bad, len(rows))
        inputs, targets = stacked
        return LoadedExamples(request, inputs, targets)


def raise_failures(where: str, failures: Mapping[int, Failure], read: int) -> None:
    """See `raise_bad`.

    Raises:
        DataError: there are any.
    """
    details = next((failure.details for failure in failures.values() if failure.details), "")
    reasons = {row: failure.reason for row, failure in failures.items()}
    raise_bad(where, reasons, read, ReadError(details) if details else None)


def stack(items: Sequence[Any]) -> Any:
    """Inputs (B, *shape) by name and targets (B, ...); if examples could not be read, the `Failure` of each,
    by its place."""
    failures = {place: item for place, item in enumerate(items) if isinstance(item, Failure)}
    if failures:
        return failures
    inputs = {name: torch.stack([item[0][name] for item in items]) for name in items[0][0]}
    return inputs, torch.stack([item[1] for item in items])


def spaced(count: int, sample: int) -> list[int]:
    """At most `sample` numbers below `count`, evenly spaced, the first and the last among them."""
    last = min(sample, count) - 1
    return [0] if last < 1 else [place * (count - 1) // last for place in range(last + 1)]


def find_randomness(fetcher: Fetcher, rows: Sequence[int]) -> Randomness:
    """Read some examples under one seed twice, and under another; failures are not reported here."""
    augments, exact = False, True
    with kept():
        for row in rows:
            seed_all(0)
            before = states()
            first = fetcher[row, None]
            augments |= states() != before
            again, other = fetcher[row, 0], fetcher[row, 1]
            exact &= _same(first, again)
            augments |= not _same(first, other)
    return Randomness(augments or not exact, exact)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Failure) or isinstance(second, Failure):
        return True
    inputs, others = first[0], second[0]
    return shapes_of(inputs) == shapes_of(others) and all(
        torch.equal(value, others[name]) for name, value in inputs.items()
    )


class _Batches:
    """A batch sampler over batches that are drawn once."""

    def __init__(self, batches: Iterator[list[tuple[int, int | None]]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[tuple[int, int | None]]]:
        return self._batches


def read_by_workers(
    fetcher: Fetcher,
    batches: Iterator[list[tuple[int, int | None]]],
    workers: int,
    where: str,
    collate: Callable[[Sequence[Any]], Any] = stack,
) -> Iterator[Any]:
    """What `collate` makes of batches of (number, seed), in order, read ahead by worker processes.

    Raises:
        DataError: a worker has ended.
    """
    opened = _open_workers(fetcher, batches, workers, collate)
    while True:
        try:
            collated = next(opened)
        except StopIteration:
            return
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{where}: a worker process ended ({_first_line(error)}), perhaps for lack of "
                "memory or shared "
                "memory (/dev/shm): use fewer workers, or workers=0"
            ) from error
        yield collated


def _open_workers(
    fetcher: Fetcher,
    batches: Iterator[list[tuple[int, int | None]]],
    workers: int,
    collate: Callable[[Sequence[Any]], Any],
) -> Iterator[Any]:
    loader: DataLoader[Any] = DataLoader(
        fetcher,
        batch_sampler=_Batches(batches),
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # else opening it would draw from the global one
        worker_init_fn=_begin_worker,
    )
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if in_main and hasattr(signal, "SIGCHLD") else None
    opened = iter(loader)
    if before is not None and signal.getsignal(signal.SIGCHLD) is not before:
        # torch's handler raises wherever this process is when a worker ends, and not where a batch is awaited
        signal.signal(signal.SIGCHLD, before)
    return opened


def _begin_worker(number: int) -> None:
    """The handlers of the run are those of its own process: an interrupted run saves its state, for which it
    may need another batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
