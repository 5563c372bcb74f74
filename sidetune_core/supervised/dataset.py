"""A map-style torch `Dataset` as a source of examples, read in this process or by workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.seeding import derive_seed
from sidetune_core.supervised.dataset_examples import shapes_of
from sidetune_core.supervised.dataset_fetcher import Failure, Fetcher, raise_failures, stack
from sidetune_core.supervised.dataset_workers import read_by_workers
from sidetune_core.supervised.example_seeds import kept, seed_all, states
from sidetune_core.supervised.sources import LoadedExamples, Request, Source

SAMPLE = 6
"""Examples that are read when a source is made, three times each, to find out whether they are random."""

GOLDEN = (5**0.5 - 1) / 2


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


def spaced(count: int, sample: int) -> list[int]:
    """At most `sample` numbers below `count` in order, the first and the last among them.

    They are spread irregularly (multiples of the golden ratio), since labels often repeat regularly.
    """
    spread = [int(count * (number * GOLDEN % 1)) for number in range(1, max(1, sample - 1))]
    return sorted({0, count - 1, *spread} if count > sample else range(count))


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
