"""Labelled sets of images in memory: what every reader of the image envs returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from sidetune_core.api import DataError, derive_seed


@attrs.frozen(eq=False)
class LabelledImages:
    """A labelled set: `images[split]` (N, 3, H, W) uint8, `labels[split]` (N,) int64 in [0, len(names)); splits 'train', 'test'."""

    images: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    names: tuple[str, ...]


def labelled(
    images: Mapping[str, Tensor], labels: Mapping[str, Tensor], names: tuple[str, ...] | None, source: str
) -> LabelledImages:
    """Check the labels of a set, and name its classes where they have no names.

    Args:
        images: by split, see `LabelledImages`.
        labels: by split.
        names: of the classes; without them, the labels of split 'train' tell how many classes there are.
        source: file or folder, for the message.

    Raises:
        DataError: a split is empty, a label is out of range, a class has no example, or there is one class only.
    """
    for split, values in labels.items():
        if not len(values):
            raise DataError(f"{source}: no images in split '{split}'")
    count = len(names) if names is not None else max(0, int(labels["train"].max())) + 1
    why = f"one for each of the {count} names" if names is not None else "as split 'train' has them"
    for split, values in labels.items():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= count:
            raise DataError(
                f"{source}: labels of split '{split}' run from {low} to {high}, expected 0 to {count - 1} ({why})"
            )
        present = np.unique(values.numpy())  # sorted
        if len(present) < count:
            absent = next(
                (place for place, label in enumerate(present.tolist()) if place != label), len(present)
            )
            name = f"{absent} '{names[absent]}'" if names is not None else str(absent)
            others = count - len(present)
            raise DataError(
                f"{source}: no image of class {name} in split '{split}' ({others} of {count} classes are absent, {why})"
            )
    if count < 2:
        raise DataError(f"{source}: there is one class only, expected two or more to tell apart")
    return LabelledImages(images, labels, names or tuple(f"class {label}" for label in range(count)))


def set_apart(labels: Tensor, fraction: float, seed: int, names: Sequence[str]) -> Tensor:
    """Choose a fraction of each class, one example at least and never all: (N,) bool, a function of the arguments alone.

    Raises:
        DataError: a class has a single example.
    """
    keys = torch.rand(len(labels), generator=torch.Generator().manual_seed(derive_seed(seed, "holdout")))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in np.unique(labels.numpy()).tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) < 2:
            raise DataError(
                f"class '{names[label]}' has a single image, so none can be set apart for another split"
            )
        size = min(max(1, round(fraction * len(members))), len(members) - 1)
        chosen[members[keys[members].argsort(stable=True)[:size]]] = True
    return chosen


def resized(pixels: Tensor, size: int) -> Tensor:
    """The largest square in the middle of each uint8 image (B, C, H, W), as (B, C, size, size): bilinear, antialiased as Pillow does it."""
    height, width = pixels.shape[2:]
    if height == width == size:
        return pixels
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    squares = pixels[:, :, top : top + side, left : left + side]
    made = torch.empty(*pixels.shape[:2], size, size, dtype=torch.uint8)
    for first in range(0, len(pixels), 1000):  # in parts: as float32, a whole set takes four times the room
        some = slice(first, first + 1000)
        scaled = torch.nn.functional.interpolate(
            squares[some].float(), (size, size), mode="bilinear", antialias=True
        )
        made[some] = scaled.round().clamp(0, 255)
    return made
