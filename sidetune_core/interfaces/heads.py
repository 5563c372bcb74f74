"""Output layers of tasks, and the normalisation before them."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.errors import FitError
from sidetune_core.interfaces.former_names import former_members
from sidetune_core.interfaces.inputs import Inputs, Shape
from sidetune_core.interfaces.tasks import Task
from sidetune_core.scenarios import Scenario

GROUPS = 8
"""Groups of the normalisation in the original code (GroupNorm over 8 groups, without parameters)."""

SMALLEST_GROUP = 8
"""Minimum size of a group: standardised, a single value is always 0, and two are always -1 and 1."""


def normalise(encoding: Tensor) -> Tensor:
    """Standardise a merged encoding in groups of channels: ``norm`` in ``T(norm(M(B(x), S(x))))``.

    (B, C) and (B, C, H, W) are standardised over 8 groups of channels, (B, L, C) likewise at every position.
    There are 4, 2 or 1 groups if 8 does not divide C or leaves fewer than 8 values in a group. The result
    does not depend on the scale of the merger's output.
    """
    if encoding.ndim == 3:
        batch, length, channels = encoding.shape
        return normalise(encoding.reshape(batch * length, channels)).reshape(batch, length, channels)
    groups = gcd(GROUPS, encoding.shape[1])
    while groups > 1 and encoding[0].numel() // groups < SMALLEST_GROUP:
        groups //= 2
    return functional.group_norm(encoding, groups)


@former_members(start="add_task")
class Heads(nn.ModuleDict):
    """The heads of a learner's tasks by task id, applied to normalised encodings.

    Of a network that all tasks share, they also know the scenario (see `sidetune_core.scenarios`). In
    ``class``, the heads together are one layer that grows with each task: all of it is trained, and the
    output for a task is the logits of its own classes, followed by those of the other tasks in order. In
    ``domain``, all tasks have one head, under the id of the first.

    Args:
        shape: shape of the encodings.
        norm: whether to normalise the encodings (see `normalise`).
        scenario: `Components.scenario`, for a network that all tasks share; ``task`` for heads that belong to
            one task each.
    """

    def __init__(self, shape: Shape, norm: bool = True, scenario: Scenario = "task") -> None:
        super().__init__()
        self.shape, self.norm, self.scenario = shape, norm, scenario
        self.task_ids: list[str] = []
        """Of the tasks with a head, in order."""

    def add_task(self, task: Task) -> nn.Module:
        """Make the head of a new task; returns what to train on it."""
        self.task_ids.append(task.id)
        if self.scenario == "domain" and len(self):
            return self.head(task.id)
        self[task.id] = task.make_head(self.shape)
        return self if self.scenario == "class" else self[task.id]

    def head(self, task_id: str) -> nn.Module:
        """The head that has the classes of a task."""
        return self[self.task_ids[0] if self.scenario == "domain" else task_id]

    def own(self, encoding: Tensor, task_id: str, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output of a task's head alone for encodings (B, *shape): the logits of its own classes.

        `inputs` are those that were encoded; a head with ``reads_context`` reads their context.

        Raises:
            FitError: the head reads the context, and there are no inputs.
        """
        head = self.head(task_id)
        normalised = normalise(encoding) if self.norm else encoding
        if not getattr(head, "reads_context", False):
            output: Tensor = head(normalised)
            return output
        if inputs is None:
            raise FitError(
                f"task {task_id} has a recurrent policy, and the learner passes no inputs to its heads: "
                "call heads.predict(encoding, task_id, inputs), or leave out --env.ppo.memory"
            )
        output = head(normalised, inputs.context if isinstance(inputs, Inputs) else {})
        return output

    def predict(self, encoding: Tensor, task_id: str, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output of a task's head for encodings (B, *shape) of inputs, see `own`.

        In the scenario ``class``, those of all other heads follow, in order.
        """
        if self.scenario != "class" or len(self) == 1:
            return self.own(encoding, task_id, inputs)
        normalised = normalise(encoding) if self.norm else encoding
        output: Tensor = self.head(task_id)(normalised)
        others = [head(normalised) for id, head in self.items() if id != task_id]
        return torch.cat([output, *others], 1)


class ClassHead(nn.Module):
    """Linear classifier on an encoding of any rank; averages (C, H, W) and (L, C) over positions first."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.rank = len(shape)
        channels = shape[1] if self.rank == 2 else shape[0]
        self.linear = nn.Linear(channels, classes)

    def forward(self, encoding: Tensor) -> Tensor:
        """Encodings (B, *shape) to logits (B, classes)."""
        if self.rank == 3:
            encoding = encoding.mean((2, 3))
        elif self.rank == 2:
            encoding = encoding.mean(1)
        logits: Tensor = self.linear(encoding)
        return logits
