"""Base class of the image envs: their options, and the partition of classes into tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor

from sidetune_core.api import (
    ClassTask,
    Examples,
    OptionError,
    Prediction,
    Preprocessed,
    Renamed,
    TaskCard,
    TaskStream,
    at_least,
    at_most,
    class_predictions,
    derive_seed,
    option,
)

from .._image_inputs import ImageHandler, to_unit
from .labelled import LabelledImages, stratified_mask

Augment = Callable[[Tensor, torch.Generator], Tensor]
CROP_PADDING = 4
"""Pixels of black border from which random crops are taken."""


@attrs.frozen
class ImageOptions:
    """Options of every image env."""

    former_options: ClassVar[Mapping[str, Renamed]] = {
        "tasks": Renamed("num-tasks"),
        "holdout": Renamed("val-fraction"),
    }

    classes_per_task: int | None = option(
        None,
        "classes per task; by default 2 in digits, 10 in icifar, and all in one task elsewhere",
        at_least(2),
    )
    partition: Literal["consecutive", "random"] = option(
        "consecutive",
        "assignment of classes to tasks: in the order of their labels, or at random by the run's seed",
    )
    num_tasks: int | None = option(
        None, "use only the first tasks of the stream; all of them if there are fewer", at_least(1)
    )
    augment: Literal["none", "crop-flip"] = option(
        "none",
        "augmentation of training images: random shift by up to 4 "
        "pixels and horizontal flip; rules out cached base outputs",
    )
    val_fraction: float = option(
        0.0,
        "fraction of each class's training images held out as split 'val', drawn by the run's seed",
        at_least(0),
        at_most(0.9),
    )


class ImageTask(ClassTask):
    """Classify images of bytes, which become floats in [0, 1].

    Args:
        id: see `Task`.
        title: see `Task`.
        examples: all images of the stream.
        classes: see `ClassTask`.
        names: names of the classes, in their order.
        augment: see `ClassTask`.
        resize: how the images were made square (see `_image_inputs.RESIZES`).
    """

    def __init__(
        self,
        id: str,
        title: str,
        examples: Examples,
        classes: Sequence[int],
        names: Sequence[str],
        augment: Augment | None,
        resize: str,
    ) -> None:
        super().__init__(
            id, title, examples, classes, transform=to_unit, augment=augment, class_names=tuple(names)
        )
        self._resize = resize

    def card(self) -> Mapping[str, str]:
        return {"resize": self._resize}


class ClassHandler(ImageHandler):
    """Classifies images: files, Pillow images, arrays and tensors."""

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
        """A class for each image from logits (B, C)."""
        return class_predictions(output, self.card.outputs.names)


class ImageStream(TaskStream):
    """A labelled set of images, split into tasks of several classes each. Subclasses read the set.

    Args:
        options: options of the env.
        seed: seed of the run; it affects the random partition and the held-out images only.
        shape: (C, H, W) of the images.
    """

    shared_ids = True  # an id is an image of the set, in whatever task its class is
    resize = "pillow"
    """How images of users are made square (see `_image_inputs.RESIZES`)."""
    classes_per_task: ClassVar[int | None] = None
    """Default where the user sets nothing; None for all classes in one task."""

    def __init__(self, options: ImageOptions, seed: int, shape: tuple[int, int, int]) -> None:
        self._options, self._seed = options, seed
        self.inputs = {"image": shape}
        self._fingerprint = self._content = ""

    @abstractmethod
    def read(self) -> LabelledImages:
        """Read the whole set.

        Raises:
            DataError: it is missing or unreadable.
        """

    def tasks(self) -> Sequence[ClassTask]:
        data, options = self.read(), self._options
        partition = self._partition(len(data.names))
        examples = self._examples(data)
        self._fingerprint = self._content = examples.fingerprint("divide by 255")
        if options.val_fraction:
            self._content = Examples(data.images, data.labels).fingerprint("divide by 255")
        tasks = []
        for index, classes in enumerate(partition[: options.num_tasks]):
            names = [data.names[label] for label in classes]
            tasks.append(
                ImageTask(
                    f"t{index}",
                    ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}",
                    examples,
                    classes,
                    names,
                    crop_flip if options.augment == "crop-flip" else None,
                    self.resize,
                )
            )
        return tasks

    def fingerprint(self) -> str:
        return self._fingerprint

    def content_fingerprint(self) -> str:
        """Of the set as it was read, before the run's seed holds out images."""
        return self._content

    @classmethod
    def handler(cls, card: TaskCard) -> ClassHandler:
        return ClassHandler(card)

    def _partition(self, count: int) -> list[list[int]]:
        """The labels of each task."""
        size = self._options.classes_per_task or self.classes_per_task or count
        if count % size:
            divisors = ", ".join(str(n) for n in range(2, count + 1) if count % n == 0)
            raise OptionError(
                f"{count} classes cannot be split into tasks of {size} "
                f"(--env.classes-per-task); possible: {divisors}"
            )
        order = list(range(count))
        if self._options.partition == "random":
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "partition"))
            order = torch.randperm(count, generator=generator).tolist()
        return [order[first : first + size] for first in range(0, count, size)]

    def _examples(self, data: LabelledImages) -> Examples:
        """The set, with the held-out fraction of 'train' as split 'val'."""
        if not self._options.val_fraction:
            return Examples(data.images, data.labels)
        images, labels = data.images["train"], data.labels["train"]
        val = stratified_mask(labels, self._options.val_fraction, self._seed, data.names)
        return Examples(
            {"train": images[~val], "val": images[val], "test": data.images["test"]},
            {"train": labels[~val], "val": labels[val], "test": data.labels["test"]},
        )


def crop_flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop of each image of (B, C, H, W) after 4-pixel zero padding, and horizontal flip with
    probability 1/2.

    The augmentation of He et al. (2016) for CIFAR.
    """
    batch, channels, height, width = pixels.shape
    padded = torch.nn.functional.pad(pixels, (CROP_PADDING,) * 4)
    top, left = torch.randint(0, 2 * CROP_PADDING + 1, (2, batch, 1), generator=generator)
    flip = torch.rand(batch, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.where(flip, torch.arange(width).flip(0), torch.arange(width))
    return padded[
        torch.arange(batch)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
