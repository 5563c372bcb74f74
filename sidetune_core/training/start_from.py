"""Starting a task from an earlier one: its side, merger and head begin as those of the earlier task are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sidetune_core.errors import OptionError
from sidetune_core.interfaces.capabilities import set_task_state, task_state
from sidetune_core.interfaces.tasks import Task


def start_from(learner: nn.Module, task: Task, earlier: Sequence[Task], source: str) -> None:
    """Copy what a learner has of an earlier task to a task that has been started.

    These are the tensors whose names differ in the id of the task alone, such as ``sides.t0.weight`` and
    ``sides.t1.weight``, and the state of the task, such as statistics of observations.

    Args:
        learner: after the start of the task.
        task: that starts.
        earlier: the tasks that are trained.
        source: the id of one of them.

    Raises:
        OptionError: there is no such task, or it has tensors of other shapes.
    """
    if task.id == source:
        return
    found = find_source(source, earlier)
    tensors = learner.state_dict(keep_vars=True)
    pairs = [(name, _renamed(name, task.id, source)) for name in tensors if task.id in name.split(".")]
    for name, own in pairs:
        if own not in tensors or tensors[own].shape != tensors[name].shape:
            has = tuple(tensors[own].shape) if own in tensors else "no such tensor"
            raise OptionError(
                f"--train.start-from {source}: '{name}' is {tuple(tensors[name].shape)}, and task '{source}' "
                f"has {has}; both tasks need inputs and outputs of one shape"
            )
    with torch.no_grad():
        for name, own in pairs:
            tensors[name].copy_(tensors[own])
    set_task_state(task, task_state(found))


def find_source(source: str, earlier: Sequence[Task]) -> Task:
    """The task that others start from.

    Raises:
        OptionError: there is no such task.
    """
    for task in earlier:
        if task.id == source:
            return task
    ids = ", ".join(task.id for task in earlier)
    raise OptionError(f"--train.start-from {source}: no earlier task '{source}'; there are {ids}")


def _renamed(name: str, id: str, source: str) -> str:
    return ".".join(source if part == id else part for part in name.split("."))
