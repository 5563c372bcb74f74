"""What the image envs share: their options, and the split of a labelled set into tasks of some classes each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor

from sidetune_core.api import (
    ClassTask,
    Examples,
    OptionError,
    TaskStream,
    at_least,
    at_most,
    derive_seed,
    option,
)

from .labelled import LabelledImages, set_apart


@attrs.frozen
class Options:
    """Options of every image env."""

    classes_per_task: int | None = option(
        None,
        "classes in a task; where it is not given, 2 in digits, 10 in icifar, and all in one task elsewhere",
        at_least(2),
    )
    partition: Literal["consecutive", "random"] = option(
        "consecutive",
        "which classes make a task: in the order of their labels, or drawn at random from the run's seed",
    )
    tasks: int | None = option(
        None, "only the first so many tasks; all of them if there are fewer", at_least(1)
    )
    augment: Literal["none", "crop-flip"] = option(
        "none",
        "change training images at random: shift by up to 4 pixels and flip; stored base outputs cannot be used then",
    )
    holdout: float = option(
        0.0,
        "fraction of each class's training images kept apart as split 'val', chosen by the run's seed",
        at_least(0),
        at_most(0.9),
    )


class ImageStream(TaskStream):
    """A labelled set of images, cut into tasks of some classes each. Subclasses read the set.

    Args:
        options: of the env.
        seed: of the run; it decides a random partition and the held-out images, and nothing else.
        shape: (C, H, W) of the images.
    """

    classes_per_task: ClassVar[int | None] = None
    """What is done where the user says nothing; None is all classes in one task."""

    def __init__(self, options: Options, seed: int, shape: tuple[int, int, int]) -> None:
        self._options, self._seed = options, seed
        self.inputs = {"image": shape}
        self._fingerprint = ""

    @abstractmethod
    def read(self) -> LabelledImages:
        """The whole set.

        Raises:
            DataError: it is missing or unreadable.
        """

    def tasks(self) -> Sequence[ClassTask]:
        data, options = self.read(), self._options
        split = self._split(len(data.names))
        examples = self._examples(data)
        self._fingerprint = examples.fingerprint("divide by 255")
        tasks = []
        for number, classes in enumerate(split[: options.tasks]):
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
        return tasks

    def fingerprint(self) -> str:
        return self._fingerprint

    def _split(self, count: int) -> list[list[int]]:
        """Classes of each task."""
        size = self._options.classes_per_task or self.classes_per_task or count
        if count % size:
            fitting = ", ".join(str(n) for n in range(2, count + 1) if count % n == 0)
            raise OptionError(
                f"{count} classes cannot be cut into tasks of {size} (--env.classes-per-task); possible: {fitting}"
            )
        order = list(range(count))
        if self._options.partition == "random":
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "partition"))
            order = torch.randperm(count, generator=generator).tolist()
        return [order[first : first + size] for first in range(0, count, size)]

    def _examples(self, data: LabelledImages) -> Examples:
        """The set, with the held-out part of 'train' as split 'val'."""
        if not self._options.holdout:
            return Examples(data.images, data.labels)
        images, labels = data.images["train"], data.labels["train"]
        held = set_apart(labels, self._options.holdout, self._seed, data.names)
        return Examples(
            {"train": images[~held], "val": images[held], "test": data.images["test"]},
            {"train": labels[~held], "val": labels[held], "test": data.labels["test"]},
        )


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
