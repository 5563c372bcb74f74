"""Base class of the image envs: their options, and the partition of classes into tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    SupervisedTask,
    TaskCard,
    TaskStream,
    ValuesPrediction,
    at_least,
    at_most,
    class_predictions,
    label_predictions,
    option,
)

from .._image_inputs import ImageHandler, to_unit
from .._image_squares import center_crop_and_resize
from ..images.augment import Augment as AugmentName
from ..images.augment import batch_augment
from .few import ClassCounts, ImageLimit
from .labelled import LabelledImages, stratified_mask
from .partition import FORMER_TASKS, divide

Augment = Callable[[Tensor, torch.Generator], Tensor]


@attrs.frozen
class ImageOptions:
    """Options of every image env."""

    former_options: ClassVar[Mapping[str, Renamed]] = {
        "tasks": FORMER_TASKS,
        "holdout": Renamed("val-fraction"),
    }

    classes_per_task: int | None = option(
        None,
        "classes per task, of which the last task has the rest; by default 2 in digits, 10 in icifar, and "
        "all in one task elsewhere",
        at_least(1),
    )
    tasks: str | None = option(
        None,
        "classes of each task in their order, such as 'cat,dog|bird', or a file with a task per line (.json: "
        "a list of lists); other classes are not used",
    )
    partition: Literal["consecutive", "random"] = option(
        "consecutive",
        "assignment of classes to tasks: in the order of their labels, or at random by the run's seed",
    )
    num_tasks: int | None = option(
        None, "use only the first tasks of the stream; all of them if there are fewer", at_least(1)
    )
    augment: AugmentName = option(
        "none",
        "augmentation of training images: crop-flip is a random shift by up to 4 pixels and a horizontal "
        "flip, resized-crop a random part of the image and a flip, resized-crop-color also random "
        "brightness, contrast, saturation and hue; rules out cached base outputs",
    )
    val_fraction: float = option(
        0.0,
        "fraction of each class's training images held out as split 'val', drawn by the run's seed",
        at_least(0),
        at_most(0.9),
    )
    max_images: int | None = option(
        None,
        "training images of each task, equally many of each class, drawn by the run's seed after split "
        "'val'; a larger number contains the images of a smaller one; by default all",
        at_least(1),
    )
    class_weights: Literal["none", "balanced"] = option(
        "none",
        "weights of the classes in the training loss: none, or balanced, inversely proportional to their "
        "numbers of training images",
    )
    sampling: Literal["uniform", "balanced"] = option(
        "uniform",
        "training batches: uniform, each image once in an epoch, or balanced, each class equally often, "
        "with replacement",
    )


def check_options(
    tasks: str | None,
    classes_per_task: int | None,
    class_weights: Literal["none", "balanced"],
    sampling: Literal["uniform", "balanced"],
) -> None:
    """Check that the imbalance of the classes is corrected once, and that one option divides the classes.

    Raises:
        OptionError: two do.
    """
    if class_weights == "balanced" and sampling == "balanced":
        raise OptionError(
            "--env.class-weights balanced and --env.sampling balanced both correct the imbalance of the "
            "classes, and together they favour the rare ones; use one of them"
        )
    if tasks is not None and classes_per_task is not None:
        raise OptionError("--env.tasks says which classes each task has; leave out --env.classes-per-task")


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
        class_weights: see `ClassTask`.
        sampling: see `ClassTask`.
        size: height and width to which stored images are resized when they are read; None for no resizing.
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
        class_weights: Literal["none", "balanced"] = "none",
        sampling: Literal["uniform", "balanced"] = "uniform",
        size: int | None = None,
    ) -> None:
        if augment is not None and size is not None:
            augment = partial(_resize_and_augment, size=size, augment=augment)
        super().__init__(
            id,
            title,
            examples,
            classes,
            transform=to_unit if size is None else partial(_resize_to_unit, size=size),
            augment=augment,
            class_names=tuple(names),
            class_weights=class_weights,
            sampling=sampling,
        )
        self._resize = resize

    def card(self) -> Mapping[str, str]:
        return {"resize": self._resize}


def _resize_to_unit(pixels: Tensor, size: int) -> Tensor:
    return to_unit(center_crop_and_resize(pixels, size))


def _resize_and_augment(pixels: Tensor, generator: torch.Generator, size: int, augment: Augment) -> Tensor:
    return augment(center_crop_and_resize(pixels, size), generator)


class ClassHandler(ImageHandler):
    """Predicts a class, labels or values of images: files, Pillow images, arrays and tensors."""

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
        """A class for each image from logits (B, C), labels from logits (B, K), or values (B, K)."""
        outputs = self.card.outputs
        if outputs.is_binary:
            return label_predictions(output, outputs.names)
        if outputs.is_regression:
            names = outputs.names or tuple(map(str, range(output.shape[1])))
            return [ValuesPrediction(dict(zip(names, row, strict=True))) for row in output.tolist()]
        return class_predictions(output, outputs.names)


class ImageStream(TaskStream):
    """A labelled set of images, split into tasks of several classes each. Subclasses read the set.

    Args:
        options: options of the env.
        seed: seed of the run; it affects the random partition, the held-out and the drawn images only.
        shape: (C, H, W) of the images.
    """

    shared_ids = True  # an id is an image of the set, in whatever task its class is
    resize = "pillow"
    """How images of users are made square (see `_image_inputs.RESIZES`)."""
    classes_per_task: ClassVar[int | None] = None
    """Default where the user sets nothing; None for all classes in one task."""
    divides: bool = True
    """Whether `classes_per_task` holds; otherwise all classes are in one task where the user sets nothing."""
    enlarged_size: int | None = None
    """Height and width to which images are resized when they are read, since they would be too large in
    memory; None if `read` gives them their size."""

    def __init__(self, options: ImageOptions, seed: int, shape: tuple[int, int, int]) -> None:
        check_options(options.tasks, options.classes_per_task, options.class_weights, options.sampling)
        self._options, self._seed = options, seed
        self.inputs = {"image": shape}
        self._fingerprint = self._content = ""

    @abstractmethod
    def read(self) -> LabelledImages:
        """Read the whole set.

        Raises:
            DataError: it is missing or unreadable.
        """

    def tasks(self) -> Sequence[SupervisedTask]:
        data, options = self.read(), self._options
        partition = self._partition(data.names)
        if data.note:
            self.info(data.note)
        examples = self._examples(data)
        transform = (
            "divide by 255"
            if self.enlarged_size is None
            else f"resize to {self.enlarged_size}, divide by 255"
        )
        self._fingerprint = self._content = examples.fingerprint(transform)
        if options.val_fraction:
            self._content = Examples(data.images, data.labels, data.check).fingerprint(transform)
        partition = partition[: options.num_tasks]
        if options.max_images is not None:
            examples = self._limited(examples, partition, data.names, options.max_images)
        tasks = []
        for index, classes in enumerate(partition):
            names = [data.names[label] for label in classes]
            tasks.append(
                ImageTask(
                    f"t{index}",
                    ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}",
                    examples,
                    classes,
                    names,
                    batch_augment(options.augment),
                    self.resize,
                    options.class_weights,
                    options.sampling,
                    self.enlarged_size,
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

    def _partition(self, names: Sequence[str]) -> list[list[int]]:
        """The labels of each task."""
        options = self._options
        size = options.classes_per_task or (self.classes_per_task if self.divides else None)
        partition = divide(names, options.tasks, size, options.partition, self._seed)
        if partition.note:
            self.info(partition.note)
        return partition.tasks

    def _examples(self, data: LabelledImages) -> Examples:
        """The set, with the held-out fraction of 'train' as split 'val'."""
        if not self._options.val_fraction:
            return Examples(data.images, data.labels, data.check)
        images, labels = data.images["train"], data.labels["train"]
        val = stratified_mask(labels, self._options.val_fraction, self._seed, data.names)
        return Examples(
            {"train": images[~val], "val": images[val], "test": data.images["test"]},
            {"train": labels[~val], "val": labels[val], "test": data.labels["test"]},
            data.check,
        )

    def _limited(
        self, examples: Examples, partition: Sequence[Sequence[int]], names: Sequence[str], count: int
    ) -> Examples:
        """The set with the label -1, which is in no task, for training images that are not drawn; ids and
        fingerprints are those of the whole set."""
        limit, labels = ImageLimit(count, self._seed), examples.labels["train"].clone()
        available = torch.bincount(labels, minlength=len(names)).tolist()
        limit.check(
            [
                ClassCounts(
                    f"t{index}",
                    tuple(names[label] for label in classes),
                    tuple(available[label] for label in classes),
                )
                for index, classes in enumerate(partition)
            ]
        )
        for index, classes in enumerate(partition):
            number = torch.full((len(names),), -1)
            number[list(classes)] = torch.arange(len(classes))
            rows = (number[examples.labels["train"]] >= 0).nonzero()[:, 0]
            drawn = limit.draw(number[examples.labels["train"][rows]], len(classes), f"t{index}")
            labels[rows[~drawn]] = -1
        return attrs.evolve(examples, labels={**examples.labels, "train": labels})
