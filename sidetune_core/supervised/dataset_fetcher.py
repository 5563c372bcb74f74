"""Single examples of a map-style dataset, read and converted."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch.utils.data import Dataset

from sidetune_core.supervised.dataset_examples import BadExample, ExampleReader, check_shapes, raise_bad
from sidetune_core.supervised.dataset_targets import Coder
from sidetune_core.supervised.example_seeds import seed_all


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
