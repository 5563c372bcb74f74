"""An iterable torch `Dataset` as a source of examples: a stream in an order of its own."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from itertools import count as numbers
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.errors import DataError, OptionError
from sidetune_core.interfaces.tasks import Order
from sidetune_core.seeding import derive_seed
from sidetune_core.supervised.dataset_examples import BadExample, ExampleReader, check_shapes
from sidetune_core.supervised.dataset_fetcher import Failure, raise_failures, stack
from sidetune_core.supervised.dataset_targets import Coder
from sidetune_core.supervised.example_seeds import kept, seed_all, set_states, states
from sidetune_core.supervised.sources import LoadedExamples, Request, Source

LIMIT = 1_000_000
"""Examples of an iterable test set that are evaluated at most; the others are left out."""

UNKNOWN_SIZE = 2**31
"""What `IterableSource.__len__` returns for a dataset without a length."""


@attrs.frozen(eq=False)
class StreamReader:
    """Reads and converts the examples of an iterable dataset.

    Args:
        dataset: of the user.
        reader: converts what it returns.
        coder: encodes targets; None to return them as they are.
        shapes: of the inputs; None where they are not known yet.
    """

    dataset: Any
    reader: ExampleReader
    coder: Coder | None = None
    shapes: Any = None

    def epoch(self, seed: int) -> Iterator[Any]:
        """One pass: inputs by name and target of each example, or a `Failure`. The global generators are
        seeded at its start, and are the user's again between two examples."""
        with kept():
            seed_all(seed)
            iterator, failure = self._open()
            own = states()
        if failure is not None:
            yield failure
            return
        while True:
            with kept():
                set_states(own)
                item = self._next(iterator)
                own = states()
            if item is None:
                return
            yield item
            if isinstance(item, Failure) and item.details:
                return  # an iterator that has raised is at its end

    def _open(self) -> tuple[Any, Failure | None]:
        try:
            return iter(self.dataset), None
        except Exception as error:  # whatever the user's code raises
            return None, Failure(f"{type(error).__name__}: {error}", traceback.format_exc())

    def _next(self, iterator: Any) -> Any:
        """The next example; None at the end."""
        try:
            item = next(iterator)
            inputs, target = self.reader.convert(item)
            if self.shapes is not None:
                check_shapes(inputs, self.shapes)
            return inputs, target if self.coder is None else self.coder.encode(target)
        except StopIteration:
            return None
        except BadExample as error:
            return Failure(str(error))
        except Exception as error:  # whatever the user's code raises
            return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


class IterableSource(Source):
    """The examples of an iterable dataset, in its own order; their features are not cached.

    Args:
        stream: of the dataset, with coder and shapes.
        size: number of examples; None if the dataset has no length.
        first_id: id of the first example.
        where: the dataset, for messages.
    """

    augments = True
    lazy_targets = True

    def __init__(self, stream: StreamReader, size: int | None, first_id: int, where: str) -> None:
        self.shapes = dict(stream.shapes)
        self.size = size
        self._stream, self._first_id, self._where = stream, first_id, where

    def __len__(self) -> int:
        return UNKNOWN_SIZE if self.size is None else self.size

    def ids(self, rows: Tensor) -> Tensor:
        return rows + self._first_id

    def targets(self) -> Tensor:
        raise OptionError(f"{self._where} is iterable, so its targets are not known beforehand")

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        raise OptionError(f"{self._where} is iterable, so it has no examples by number")

    def sample(self, count: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The inputs of the first examples, by number."""
        for number, item in zip(range(count), self._stream.epoch(0), strict=False):
            if isinstance(item, Failure):
                raise_failures(self._where, {number: item}, number + 1)
            yield number, item[0]

    def train(self, order: Order, *names: object) -> Iterator[LoadedExamples]:
        """Training batches without end, one pass after another; those before ``order.first_step`` are read
        again and left out.

        Pass e is seeded by (order.seed, names, e).

        Raises:
            DataError: an example cannot be read, or a pass has none.
        """
        skipped = order.first_step * order.batch_size
        position, items, rows = 0, [], []
        for epoch in numbers():
            before = position
            for item in self._stream.epoch(derive_seed(order.seed, "stream", *names, epoch)):
                if position >= skipped:
                    items.append(item)
                    rows.append(position)
                position += 1
                if len(items) == order.batch_size or isinstance(item, Failure):
                    yield self._examples(items, rows)
                    items, rows = [], []
            if position == before:
                raise DataError(
                    f"{self._where} has no examples in pass {epoch + 1}: __iter__ has to begin again"
                )

    def once(self, batch_size: int) -> Iterator[LoadedExamples]:
        """Batches of one pass, under one seed, of at most `LIMIT` examples.

        Raises:
            DataError: an example cannot be read, or there are none.
        """
        items: list[Any] = []
        rows: list[int] = []
        for number, item in zip(range(LIMIT), self._stream.epoch(derive_seed(0, "evaluate")), strict=False):
            items.append(item)
            rows.append(number)
            if len(items) == batch_size or isinstance(item, Failure):
                yield self._examples(items, rows)
                items, rows = [], []
        if rows:
            yield self._examples(items, rows)

    def _examples(self, items: list[Any], rows: list[int]) -> LoadedExamples:
        stacked = stack(items)
        if isinstance(stacked, dict):
            raise_failures(self._where, {rows[place]: one for place, one in stacked.items()}, rows[-1] + 1)
        inputs, targets = stacked
        return LoadedExamples(Request(torch.tensor(rows), 0), inputs, targets)
