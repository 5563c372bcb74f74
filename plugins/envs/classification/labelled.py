"""Labelled image sets in memory: the common result of all readers of the image envs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from sidetune_core.api import DataError, derive_seed


@attrs.frozen(eq=False)
class LabelledImages:
    """A labelled set with splits 'train' and 'test'.

    `images[split]` is (N, 3, H, W) uint8, `labels[split]` (N,) int64 in [0, len(names)).
    """

    images: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    names: tuple[str, ...]


def make_labelled_images(
    images: Mapping[str, Tensor], labels: Mapping[str, Tensor], names: tuple[str, ...] | None, source: str
) -> LabelledImages:
    """Validate the labels of a set, and name its classes where the source has no names.

    Args:
        images: by split, see `LabelledImages`.
        labels: by split.
        names: class names; if None, the highest label of split 'train' determines the number of classes.
        source: file or folder, for the message.

    Raises:
        DataError: a split is empty, a label is out of range, or a class is empty or the only one.
    """
    for split, values in labels.items():
        if not len(values):
            raise DataError(f"{source}: no images in split '{split}'")
    count = len(names) if names is not None else max(0, int(labels["train"].max())) + 1
    expected = f"one for each of the {count} names" if names is not None else "the labels of split 'train'"
    for split, values in labels.items():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= count:
            raise DataError(
                f"{source}: labels of split '{split}' range from {low} "
                f"to {high}, expected 0 to {count - 1} ({expected})"
            )
        present = np.unique(values.numpy())  # sorted
        if len(present) < count:
            missing = next((i for i, label in enumerate(present.tolist()) if i != label), len(present))
            name = f"{missing} '{names[missing]}'" if names is not None else str(missing)
            raise DataError(
                f"{source}: no image of class {name} in split '{split}' "
                f"({count - len(present)} of {count} classes are missing, {expected})"
            )
    if count < 2:
        raise DataError(f"{source}: only one class, expected two or more")
    return LabelledImages(images, labels, names or tuple(f"class {label}" for label in range(count)))


def stratified_mask(labels: Tensor, fraction: float, seed: int, names: Sequence[str]) -> Tensor:
    """Draw a fraction of each class, at least one example and never all: (N,) bool, True for the drawn
    examples.

    Raises:
        DataError: a class has a single example.
    """
    keys = torch.rand(len(labels), generator=torch.Generator().manual_seed(derive_seed(seed, "holdout")))
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in np.unique(labels.numpy()).tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) < 2:
            raise DataError(
                f"class '{names[label]}' has a single image; expected "
                "two or more, to hold one out for another split"
            )
        size = min(max(1, round(fraction * len(members))), len(members) - 1)
        mask[members[keys[members].argsort(stable=True)[:size]]] = True
    return mask
