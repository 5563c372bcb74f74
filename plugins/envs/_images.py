"""What the image envs share: options, archives, and the split of a labelled set into tasks of some classes each."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from sidetune_core.api import ClassTask, DataError, Examples, OptionError, TaskStream, at_least, at_most, derive_seed, option


@attrs.frozen
class Options:
    """Options of every image env."""

    classes_per_task: int | None = option(None, "classes in a task; all in one task where it is not given", at_least(1))
    partition: Literal["consecutive", "random"] = option(
        "consecutive", "which classes make a task: in the order of their labels, or drawn at random from the run's seed"
    )
    tasks: int | None = option(None, "only the first so many tasks", at_least(1))
    augment: Literal["none", "crop-flip"] = option(
        "none", "change training images at random: shift by up to 4 pixels and flip; stored base outputs cannot be used then"
    )
    holdout: float = option(0.0, "fraction of the training images kept apart as split 'val'", at_least(0), at_most(0.9))


@attrs.frozen(eq=False)
class LabelledImages:
    """A labelled set: `images[split]` (N, C, H, W) uint8, `labels[split]` (N,) int64 in [0, len(names)); splits 'train', 'test'."""

    images: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    names: tuple[str, ...]


class ImageStream(TaskStream):
    """A labelled set of images, cut into tasks of some classes each. Subclasses read the set."""

    classes_per_task: int | None = None
    """What is done where the user says nothing; None is all classes in one task."""

    def __init__(self, options: Options, seed: int, shape: tuple[int, int, int]) -> None:
        self._options, self._seed = options, seed
        self.inputs = {"image": shape}
        self._fingerprint = ""

    def read(self) -> LabelledImages:
        """The whole set.

        Raises:
            DataError: it is missing or unreadable.
        """
        raise NotImplementedError  # abstract, but ABC is upstream

    def tasks(self) -> Sequence[ClassTask]:
        data, options = self.read(), self._options
        examples = _hold_out(Examples(data.images, data.labels), options.holdout, self._seed)
        self._fingerprint = examples.fingerprint("divide by 255")
        tasks = []
        for number, classes in enumerate(self._split(len(data.names))):
            names = [data.names[label] for label in classes]
            tasks.append(
                ClassTask(
                    f"t{number}",
                    ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}",
                    examples,
                    classes,
                    transform=to_unit,
                    augment=crop_flip if options.augment == "crop-flip" else None,
                )
            )
        return tasks[: options.tasks]

    def fingerprint(self) -> str:
        return self._fingerprint

    def _split(self, count: int) -> list[list[int]]:
        """Classes of each task."""
        size = self._options.classes_per_task or self.classes_per_task or count
        if count % size:
            fitting = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
            raise OptionError(f"{count} classes cannot be cut into tasks of {size} (--env.classes-per-task); possible: {fitting}")
        order = list(range(count))
        if self._options.partition == "random":
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "partition"))
            order = torch.randperm(count, generator=generator).tolist()
        return [order[first : first + size] for first in range(0, count, size)]


def read_archive(path: Path, shape: tuple[int, int, int]) -> LabelledImages:
    """A labelled set from an ``.npz`` file.

    Keys: ``x_train``, ``x_test`` (N, H, W, 3) or (N, H, W) uint8; ``y_train``, ``y_test`` (N,) whole numbers from 0; and, if the classes
    have names, ``names`` (classes,) text.

    Args:
        path: the file.
        shape: (C, H, W) that the images must have; grey images are repeated over three channels.

    Raises:
        DataError: the file is missing, damaged, or lacks or misshapes one of the keys; or labels are out of range.
    """
    arrays = _load_npz(path)
    if lacking := [key for key in ("x_train", "y_train", "x_test", "y_test") if key not in arrays]:
        raise DataError(f"{path} lacks {', '.join(lacking)}; it has {', '.join(sorted(arrays)) or 'nothing'}")
    images, labels = {}, {}
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)):
            raise DataError(f"{path}: x_{split} must be uint8 of shape (N, H, W, 3) or (N, H, W); it is {x.dtype} {x.shape}")
        if x.shape[1:3] != shape[1:]:
            raise DataError(f"{path}: the images of x_{split} are {x.shape[1]} x {x.shape[2]}, expected {shape[1]} x {shape[2]}")
        if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
            raise DataError(f"{path}: y_{split} must be one whole number per image, {x.shape[:1]}; it is {y.dtype} {y.shape}")
        pixels = torch.from_numpy(x if x.ndim == 4 else x[..., None]).permute(0, 3, 1, 2)
        images[split] = pixels.expand(-1, shape[0], -1, -1).contiguous()
        labels[split] = torch.from_numpy(y.astype(np.int64))
    names = tuple(map(str, arrays["names"])) if "names" in arrays else None
    return labelled(images, labels, names, str(path))


def labelled(images: Mapping[str, Tensor], labels: Mapping[str, Tensor], names: tuple[str, ...] | None, source: str) -> LabelledImages:
    """Check the labels of a set, and name its classes where they have no names.

    Raises:
        DataError: a split is empty, a label is out of range, or a class has no example.
    """
    for split, values in labels.items():
        if not len(values):
            raise DataError(f"{source}: no images in split '{split}'")
    count = len(names) if names else int(labels["train"].max()) + 1
    for split, values in labels.items():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= count:
            raise DataError(f"{source}: labels of split '{split}' run from {low} to {high}, expected 0 to {count - 1}")
        if absent := sorted(set(range(count)) - set(values.unique().tolist())):
            raise DataError(f"{source}: no image of class {absent[0]} in split '{split}' ({len(absent)} of {count} classes are absent)")
    return LabelledImages(images, labels, names or tuple(f"class {k}" for k in range(count)))


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 images (B, C, H, W) to float in [0, 1]."""
    return pixels.float() / 255


def crop_flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image of (B, C, H, W) by up to 4 pixels, filling with black, and flip every other one, as He et al. (2016) do."""
    batch, channels, height, width = pixels.shape
    padded = torch.nn.functional.pad(pixels, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, batch, 1), generator=generator)
    flip = torch.rand(batch, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.where(flip, torch.arange(width).flip(0), torch.arange(width))
    return padded[
        torch.arange(batch)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _hold_out(examples: Examples, fraction: float, seed: int) -> Examples:
    """Move a fraction of each class from 'train' to a split 'val'."""
    if not fraction:
        return examples
    labels = examples.labels["train"]
    generator = torch.Generator().manual_seed(derive_seed(seed, "holdout"))
    keys = torch.rand(len(labels), generator=generator)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        held[members[keys[members].argsort()[: round(fraction * len(members))]]] = True
    images = examples.inputs["train"]
    return Examples(
        {"train": images[~held], "val": images[held], "test": examples.inputs["test"]},
        {"train": labels[~held], "val": labels[held], "test": examples.labels["test"]},
    )


def _load_npz(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"no file {path} (--env.archive)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path} is not a readable .npz archive: {str(error).splitlines()[0]}") from error
