"""A limit on the training images of a task, which are drawn by the run's seed."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import OptionError, derive_seed, shorten


@attrs.frozen
class ClassCounts:
    """The training images of a task that there are."""

    task: str
    """Its id."""
    names: tuple[str, ...]
    """Of the classes; empty where targets are no classes."""
    counts: tuple[int, ...]
    """Images of each class, or of the whole task."""


@attrs.frozen
class ImageLimit:
    """Draws `count` training images of each task, equally many of each class.

    If the classes do not divide `count`, classes drawn at random have one image more. A larger limit contains
    the images of a smaller one.
    """

    count: int
    seed: int
    """Of the run."""

    def draw(self, targets: Tensor, classes: int, task: str) -> Tensor:
        """The drawn rows as a mask (N,).

        Args:
            targets: (N,) int64 in [0, classes); of any shape (N, ...) if `classes` is 0.
            classes: their number; 0 where targets are no classes.
            task: the id of the task.
        """
        labels = targets if classes else torch.zeros(len(targets), dtype=torch.int64)
        order = torch.rand(len(labels), generator=self._generator(task)).argsort(stable=True)
        drawn = torch.zeros(len(labels), dtype=torch.bool)
        for label, size in enumerate(self._sizes(max(1, classes), task)):
            drawn[order[labels[order] == label][:size]] = True
        return drawn

    def check(self, tasks: Sequence[ClassCounts]) -> None:
        """Check that there are enough images.

        Raises:
            OptionError: a task has more classes than images are asked for, or a class has too few images;
                all of them are counted.
        """
        option = f"--env.max-images {self.count}"
        if large := [task for task in tasks if len(task.names) > self.count]:
            most = max(len(task.names) for task in large)
            listed = shorten(f"{task.task} ({len(task.names):,})" for task in large)
            raise OptionError(
                f"{option}: {len(large):,} of {len(tasks):,} tasks have more classes than that: {listed}; "
                f"pass --env.max-images {most} for one image of each class"
            )
        short = [line for task in tasks for line in self._short(task, len(tasks) > 1)]
        if not short:
            return
        most = min(len(task.counts) * min(task.counts) for task in tasks)
        fits = most >= max(len(task.counts) for task in tasks)
        hint = f"pass --env.max-images {most}" if fits else "leave it out, or leave classes out (--env.tasks)"
        total = sum(len(task.counts) for task in tasks)
        noun = "classes" if tasks[0].names else "tasks"
        raise OptionError(
            f"{option}: {len(short):,} of {total:,} {noun} have fewer training images than it draws of each: "
            f"{shorten(short)}; {hint}"
        )

    def _short(self, task: ClassCounts, several: bool) -> list[str]:
        """The classes with too few images, in words; the task if it has no classes."""
        of = f" of {task.task}" if several and task.names else ""
        names = task.names or (task.task,)
        sizes = self._sizes(len(task.counts), task.task)
        return [
            f"{name}{of} ({count:,} of {size:,})"
            for name, count, size in zip(names, task.counts, sizes, strict=True)
            if count < size
        ]

    def _sizes(self, classes: int, task: str) -> list[int]:
        """Images of each class."""
        each, rest = divmod(self.count, classes)
        turn = torch.randperm(classes, generator=self._generator(task, "classes"))
        return (each + (turn < rest).long()).tolist()

    def _generator(self, *names: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, "images", *names))
