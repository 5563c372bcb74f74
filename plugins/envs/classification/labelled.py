"""Labelled image sets in memory: the common result of all readers of the image envs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import DataError, derive_seed, shorten


@attrs.frozen(eq=False)
class LabelledImages:
    """A labelled set with splits 'train' and 'test'.

    `images[split]` is (N, 3, H, W) uint8, `labels[split]` (N,) int64 in [0, len(names)).
    """

    images: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    names: tuple[str, ...]
    note: str = ""
    """What the user should know of it."""
    check: Callable[[], None] | None = None
    """See `Examples`."""


def make_labelled_images(
    images: Mapping[str, Tensor], labels: Mapping[str, Tensor], names: tuple[str, ...] | None, source: str
) -> LabelledImages:
    """Validate the labels of a set, number its classes from 0, and name them where the source has no names.

    Args:
        images: by split, see `LabelledImages`.
        labels: by split: any integers; with `names` from 0 or from 1 to their number.
        names: class names; if None, the labels of split 'train' in numeric order are the classes.
        source: file or folder, for the message.

    Raises:
        DataError: a split is empty, a label is out of range, or a class is empty or the only one.
    """
    for split, values in labels.items():
        if not len(values):
            raise DataError(f"{source}: no images in split '{split}'")
    if names is None:
        labels, names = _numbered(labels, source)
    else:
        labels = _from_zero(labels, len(names))
        _check_range(labels, names, source)
    if len(names) < 2:
        raise DataError(f"{source}: only one class, expected two or more")
    untested = _absent(labels["test"], names)
    note = f"no test image of {shorten(untested)}: trained on, not tested" if untested else ""
    return LabelledImages(images, labels, names, note)


def _numbered(labels: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Labels that are any integers, numbered in their order, and the names of the classes."""
    values = _distinct(labels["train"])
    numbered = {}
    for split, given in labels.items():
        places = torch.searchsorted(values, given).clamp(max=len(values) - 1)
        if len(others := _distinct(given[values[places] != given])):
            raise DataError(
                f"{source}: {len(others):,} of {len(_distinct(given)):,} labels of split '{split}' are not "
                f"in split 'train': {shorten(others.tolist())}"
            )
        numbered[split] = places
    return numbered, tuple(f"class {label}" for label in values.tolist())


def _distinct(labels: Tensor) -> Tensor:
    """Labels without repetition, in numeric order."""
    unique: Tensor = torch.unique(labels)  # that of NumPy would import its masked arrays
    return unique


def _from_zero(labels: Mapping[str, Tensor], count: int) -> Mapping[str, Tensor]:
    """Labels 1 to `count` of named classes, as 0 to `count` - 1; others as they are."""
    low = min(int(values.min()) for values in labels.values())
    high = max(int(values.max()) for values in labels.values())
    if (low, high) == (1, count):
        return {split: values - 1 for split, values in labels.items()}
    return labels


def _check_range(labels: Mapping[str, Tensor], names: Sequence[str], source: str) -> None:
    """Check the labels of named classes."""
    count = len(names)
    expected = f"one for each of the {count} names"
    for split, values in labels.items():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= count:
            raise DataError(
                f"{source}: labels of split '{split}' range from {low} "
                f"to {high}, expected 0 to {count - 1} or 1 to {count} ({expected})"
            )
    if missing := _absent(labels["train"], names):
        raise DataError(
            f"{source}: no image of class {shorten(map(repr, missing))} in split 'train' "
            f"({len(missing)} of {count} classes are missing, {expected})"
        )


def _absent(labels: Tensor, names: Sequence[str]) -> list[str]:
    """The classes without an image."""
    present = set(_distinct(labels).tolist())
    return [name for label, name in enumerate(names) if label not in present]


def stratified_mask(
    labels: Tensor, fraction: float, seed: int, names: Sequence[str], noun: str = "image"
) -> Tensor:
    """Draw a fraction of each class, at least one example and never all: (N,) bool, True for the drawn
    examples.

    `noun` is what an example is called in messages.

    Raises:
        DataError: a class has a single example.
    """
    keys = torch.rand(len(labels), generator=torch.Generator().manual_seed(derive_seed(seed, "holdout")))
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in _distinct(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) < 2:
            raise DataError(
                f"class '{names[label]}' has a single {noun}; expected "
                "two or more, to hold one out for another split"
            )
        size = min(max(1, round(fraction * len(members))), len(members) - 1)
        mask[members[keys[members].argsort(stable=True)[:size]]] = True
    return mask
