"""What is read of a user's dataset before training: whether it is one, a sample, and its targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from sidetune_core.errors import DataError, OptionError
from sidetune_core.supervised.dataset import SAMPLE, spaced
from sidetune_core.supervised.dataset_examples import (
    BadExample,
    ExampleReader,
    check_shapes,
    raise_bad,
    shapes_of,
)
from sidetune_core.supervised.dataset_fetcher import Failure, Fetcher, raise_failures
from sidetune_core.supervised.dataset_targets import same_target, stored_targets
from sidetune_core.supervised.dataset_workers import read_by_workers
from sidetune_core.supervised.example_seeds import kept
from sidetune_core.supervised.iterable_dataset import StreamReader

CHECKED = 2000
"""Largest dataset of which all examples are read where one of the sample cannot be used, to count them."""

READ_AT_ONCE = 64
"""Examples that a worker reads at once for their targets."""


@attrs.frozen(eq=False)
class Given:
    """A dataset of a split, as the user gave it."""

    split: str
    dataset: Any
    size: int | None
    """Number of examples; None for an iterable dataset without a length."""
    iterable: bool

    @property
    def where(self) -> str:
        """``train dataset (CIFAR10)``"""
        return f"{self.split} dataset ({type(self.dataset).__name__})"


@attrs.frozen(eq=False)
class Sample:
    """Some examples of a dataset."""

    rows: Sequence[int]
    shapes: dict[str, tuple[int, ...]]
    targets: Sequence[Any]
    low: float
    high: float
    """Range of all inputs that are floats."""


def as_given(split: str, dataset: Any) -> Given:
    """Check that something is a dataset.

    Raises:
        DataError: it has no examples, or no length.
        OptionError: it is something else.
    """
    where = f"{split} dataset ({type(dataset).__name__})"
    if isinstance(dataset, DataLoader):
        raise OptionError(f"{where}: give the dataset of the loader, {split}=loader.dataset, and workers=")
    if isinstance(dataset, type):
        raise OptionError(f"{split} is the class {dataset.__name__}: give an instance of it")
    if isinstance(dataset, Iterator):
        raise OptionError(
            f"{where} can be read only once: give a list, or an IterableDataset whose __iter__ begins again"
        )
    if isinstance(dataset, Mapping):
        raise OptionError(f"{where} is no torch Dataset; examples are read by number, from 0 on")
    if isinstance(dataset, Tensor | np.ndarray) or _are_arrays(dataset):
        raise OptionError(
            f"{where} has arrays in place of examples: give torch.utils.data.TensorDataset(inputs, targets)"
        )
    iterable = isinstance(dataset, IterableDataset) or (
        hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__")
    )
    if not iterable and not hasattr(dataset, "__getitem__"):
        raise OptionError(f"{where} is no torch Dataset: it has neither __getitem__ nor __iter__")
    try:
        size = len(dataset)
    except (TypeError, NotImplementedError) as error:
        if not iterable:
            raise DataError(
                f"{where} has no length: define __len__, or derive it from torch.utils.data.IterableDataset"
            ) from error
        size = None
    except Exception as error:  # whatever the user's code raises, or a length below 0
        raise DataError(f"{where}: its length cannot be read ({type(error).__name__}: {error})") from error
    if size == 0:
        raise DataError(f"{where} is empty")
    return Given(split, dataset, size, iterable)


def _are_arrays(dataset: Any) -> bool:
    """Whether it is a pair of inputs (N, ...) and targets (N, ...), rather than a list of two examples."""
    return (
        isinstance(dataset, tuple | list)
        and len(dataset) == 2
        and all(isinstance(part, Tensor | np.ndarray) and part.ndim for part in dataset)
        and len(dataset[0]) == len(dataset[1])
        and dataset[0].shape != dataset[1].shape
    )


def read_sample(given: Given, reader: ExampleReader) -> Sample:
    """Read some examples; of a small dataset all, if one of these cannot be used.

    Raises:
        DataError: one cannot be read, or they have different shapes.
    """
    rows, items = _sample_items(given, reader)
    if _bad(rows, items) and not given.iterable and (given.size or 0) <= CHECKED:
        fetcher, rows = Fetcher(given.dataset, reader), list(range(given.size or 0))
        with kept():
            items = [fetcher[row, 0] for row in rows]
    raise_failures(given.where, _bad(rows, items), len(rows))
    shapes = shapes_of(items[0][0])
    floats = [value for item in items for value in item[0].values() if value.is_floating_point()]
    low = min((float(value.min()) for value in floats if value.numel()), default=0.0)
    high = max((float(value.max()) for value in floats if value.numel()), default=0.0)
    return Sample(rows, shapes, [item[1] for item in items], low, high)


def _bad(rows: Sequence[int], items: Sequence[Any]) -> dict[int, Failure]:
    """The examples that cannot be used, by number: shapes are to be those of the first that can be read."""
    bad: dict[int, Failure] = {}
    shapes = None
    for row, item in zip(rows, items, strict=True):
        if isinstance(item, Failure):
            bad[row] = item
            continue
        shapes = shapes_of(item[0]) if shapes is None else shapes
        try:
            check_shapes(item[0], shapes)
        except BadExample as error:
            bad[row] = Failure(str(error))
    return bad


def _sample_items(given: Given, reader: ExampleReader) -> tuple[list[int], list[Any]]:
    if given.iterable:
        stream = StreamReader(given.dataset, reader)
        items = [item for _, item in zip(range(SAMPLE), stream.epoch(0), strict=False)]
        if not items:
            raise DataError(f"{given.where} is empty")
        return list(range(len(items))), items
    assert given.size is not None
    fetcher, rows = Fetcher(given.dataset, reader), spaced(given.size, SAMPLE)
    with kept():
        return rows, [fetcher[row, 0] for row in rows]


def raw_targets(given: Given, reader: ExampleReader, sample: Sample, workers: int) -> list[Any]:
    """The targets of all examples, as the dataset returns them: those that it stores, if these agree with the
    sample, otherwise all examples are read.

    Raises:
        DataError: examples cannot be read, or have other shapes than those of the sample.
    """
    stored = stored_targets(given.dataset)
    if stored is not None:
        change = reader.target_transform or (lambda target: target)
        try:
            values = [change(target) for target in _listed(stored)]
        except Exception:  # of a transform that takes something else: what the dataset returns decides
            values = []
        if values and all(
            same_target(values[row], target) for row, target in zip(sample.rows, sample.targets, strict=True)
        ):
            return values
    return _read_all(given, reader, sample, workers)


def _listed(stored: Any) -> Sequence[Any]:
    """Python numbers where that is fast, rows of tensors otherwise."""
    if isinstance(stored, Tensor) and stored.ndim == 1:
        return stored.tolist()
    return list(stored)


def _read_all(given: Given, reader: ExampleReader, sample: Sample, workers: int) -> list[Any]:
    fetcher = Fetcher(given.dataset, reader, None, sample.shapes)
    assert given.size is not None
    title = f"reading the targets of the {given.split} dataset, which has no .targets"
    targets: list[Any] = []
    failures: dict[int, Failure] = {}
    with tqdm(total=given.size, desc=title, delay=3, disable=None, leave=False) as bar:
        for batch in _target_batches(fetcher, given, workers):
            for target in batch:
                if isinstance(target, Failure):
                    failures[len(targets)] = target
                targets.append(target)
            bar.update(len(batch))
    raise_failures(given.where, failures, given.size)
    return targets


def _target_batches(fetcher: Fetcher, given: Given, workers: int) -> Iterator[list[Any]]:
    assert given.size is not None
    firsts = range(0, given.size, READ_AT_ONCE)
    batches = (_keys(first, min(first + READ_AT_ONCE, given.size or 0)) for first in firsts)
    if workers:
        yield from read_by_workers(fetcher, batches, workers, given.where, only_targets)
        return
    for batch in batches:
        with kept():
            items = [fetcher[key] for key in batch]
        yield only_targets(items)


def _keys(first: int, end: int) -> list[tuple[int, int | None]]:
    return [(row, row) for row in range(first, end)]


def only_targets(items: Sequence[Any]) -> list[Any]:
    """The targets of examples, or why one could not be read."""
    return [item if isinstance(item, Failure) else item[1] for item in items]


def encode_all(given: Given, targets: Sequence[Any], encode: Callable[[Any], Any]) -> list[Any]:
    """Targets encoded one by one.

    Raises:
        DataError: some cannot be, all of which are counted.
    """
    encoded, bad = [], dict[int, str]()
    for row, target in enumerate(targets):
        try:
            encoded.append(encode(target))
        except BadExample as error:
            bad[row] = str(error)
    raise_bad(given.where, bad, len(targets))
    return encoded
