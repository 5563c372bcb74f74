"""From sets of files to tasks: which classes each task has, and the numbers of the examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs
import torch

from sidetune_core.api import DataError, OptionError, shorten

from ..classification.few import ClassCounts, ImageLimit
from ..classification.partition import divide, own_tasks
from .account import Account, counted
from .image_set import SPLITS, ImageSet
from .splits import Splitter
from .task_ids import task_ids

Numbers = Mapping[tuple[str, str], int]
"""Example ids by set and path."""


@attrs.frozen(eq=False)
class TaskPlan:
    """A task and its files."""

    id: str
    title: str
    images: ImageSet


@attrs.frozen(eq=False)
class Plan:
    """All tasks."""

    sets: list[ImageSet]
    """With all splits; examples have ids."""
    ids: list[str]
    """Of the sets, empty for one without a name."""
    tasks: list[TaskPlan]


@attrs.frozen(eq=False)
class Planner:
    """Makes plans of sets.

    Args:
        splitter: divides the sets into splits.
        account: of what is read.
        own: classes of each task in the user's order (see `read_tasks`).
        size: classes per task.
        order: of the classes.
        seed: of a random order.
        limit: number of tasks; None for all.
        images: limit on the training images of each task; None for all.
    """

    splitter: Splitter
    account: Account
    own: str | None
    size: int | None
    order: Literal["consecutive", "random"]
    seed: int
    limit: int | None
    images: ImageLimit | None = None

    def plan(self, sets: Sequence[ImageSet], numbers: Numbers | None = None) -> Plan:
        """Divide sets into splits and tasks.

        Args:
            sets: of files.
            numbers: the ids of the examples; None to count them.

        Raises:
            OptionError: the classes cannot be divided as the user asks.
            DataError: the images of a class cannot be divided into splits, or a task has no test image.
        """
        self._check_options(sets)
        own = own_tasks(sets[0].names, self.own) if self.own is not None else None
        if own is not None:
            used = {name for task in own for name in task}
            if left := [name for name in sets[0].names if name not in used]:
                self.account.left_out.others.append(f"classes in no task ({shorten(left)})")
            labels = [label for label, name in enumerate(sets[0].names) if name in used]
            sets = [sets[0].choose(labels)]
        split = self.splitter.split(sets)
        split = number(split, numbers)
        ids = task_ids([images.name for images in split])
        ids = [id if images.name else "" for id, images in zip(ids, split, strict=True)]
        tasks = [task for id, images in zip(ids, split, strict=True) for task in self._tasks(id, images, own)]
        tasks = tasks[: self.limit]
        _check_tested(tasks)
        if self.images is not None:
            tasks = self._limited(tasks, self.images)
        return Plan(split, ids, tasks)

    def _limited(self, tasks: Sequence[TaskPlan], limit: ImageLimit) -> list[TaskPlan]:
        """The tasks with the training images that are drawn."""
        limit.check([_class_counts(task) for task in tasks])
        self.account.notes.append(f"{counted(limit.count, 'training image')} of each task, drawn by the seed")
        limited = []
        for task in tasks:
            train = task.images.splits["train"]
            classes = len(task.images.names) if task.images.kind == "class" else 0
            splits = {**task.images.splits, "train": train.rows(limit.draw(train.targets, classes, task.id))}
            limited.append(attrs.evolve(task, images=attrs.evolve(task.images, splits=splits)))
        return limited

    def _check_options(self, sets: Sequence[ImageSet]) -> None:
        if self.own is not None and len(sets) > 1:
            raise OptionError(
                f"--env.tasks divides the classes of one set into tasks, and these images are {len(sets):,} "
                f"tasks already ({shorten(images.name for images in sets)}); leave out --env.tasks"
            )
        if sets[0].kind != "class" and (self.own is not None or self.size is not None):
            option = "tasks" if self.own is not None else "classes-per-task"
            raise OptionError(
                f"--env.{option} divides classes; leave it out with --env.targets {sets[0].kind}"
            )
        single = len(sets) == 1 and sets[0].kind == "class" and len(sets[0].names) == 1
        if single:
            raise DataError(
                f"{sets[0].base}: only one class ('{sets[0].names[0]}') in one task, expected two or more"
            )

    def _tasks(self, id: str, images: ImageSet, own: Sequence[Sequence[str]] | None) -> list[TaskPlan]:
        """The tasks of a set."""
        if images.kind != "class":
            return [TaskPlan(id or "t0", images.name or _title(images.names), images)]
        if own is not None:
            label_of = {name: label for label, name in enumerate(images.names)}
            kept = [[label_of[name] for name in task if name in label_of] for task in own]
            parts = [task for task in kept if task]
        else:
            partition = divide(images.names, None, self.size, self.order, self.seed)
            parts = partition.tasks
            if partition.note:
                self.account.notes.append(f"{images.name}: {partition.note}" if id else partition.note)
        tasks = []
        for index, labels in enumerate(parts):
            chosen = images.choose(labels)
            splits = {split: files for split, files in chosen.splits.items() if len(files) or split != "val"}
            title = _title(chosen.names)
            name = f"t{index}"
            if id:
                name = f"{id}-{index}" if len(parts) > 1 else id
                title = f"{images.name}: {title}" if len(parts) > 1 else images.name
            tasks.append(TaskPlan(name, title, attrs.evolve(chosen, splits=splits)))
        return tasks


def number(sets: Sequence[ImageSet], numbers: Numbers | None) -> list[ImageSet]:
    """The sets with ids of their examples: those given, or 0, 1, … through the splits in their order."""
    ids: dict[tuple[int, str], torch.Tensor] = {}
    first = 0
    for split in SPLITS:
        for index, images in enumerate(sets):
            if split not in images.splits:
                continue
            paths = images.splits[split].paths
            if numbers is None:
                ids[index, split] = torch.arange(first, first + len(paths))
                first += len(paths)
            else:
                ids[index, split] = torch.tensor([numbers[images.name, path] for path in paths])
    return [
        attrs.evolve(
            images,
            splits={
                split: attrs.evolve(files, ids=ids[index, split]) for split, files in images.splits.items()
            },
        )
        for index, images in enumerate(sets)
    ]


def _class_counts(task: TaskPlan) -> ClassCounts:
    images = task.images
    if images.kind != "class":
        return ClassCounts(task.id, (), (len(images.splits["train"]),))
    return ClassCounts(task.id, images.names, tuple(images.counts("train")))


def _check_tested(tasks: Sequence[TaskPlan]) -> None:
    if untested := [task.id for task in tasks if not len(task.images.splits["test"])]:
        raise DataError(
            f"{len(untested):,} of {len(tasks):,} tasks have no test image: {shorten(untested)}; a task "
            "needs one in its split 'test'"
        )


def _title(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}"
