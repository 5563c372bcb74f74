"""PackNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor
from torch.func import functional_call

from sidetune_core.api import (
    BufferDict,
    Components,
    FitError,
    Heads,
    Learner,
    Phase,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    at_most,
    option,
)

FREE = 0
"""The owner of a weight that no task uses."""


class PackNet(Learner):
    """One network, each weight of which belongs to one task and is frozen for later ones (Mallya & Lazebnik,
    PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning, CVPR 2018, section 3).

    A task trains all weights that are free, next to those of earlier tasks, which it uses as they are. Then
    it prunes: in each layer, the fraction `prune` of its weights that is smallest in magnitude is set to zero
    and free for later tasks. It retrains the others in a second phase. A task computes with its own weights
    and those of earlier tasks, so that its outputs stay the same bit for bit.

    Weights are those of convolutions and linear layers. Biases and norms are trained on the first task only,
    and running statistics change on that one only, as in the paper. There the first task is ImageNet; here it
    is the first of the stream, on a base with its weights from elsewhere, of which no part is kept apart.
    Both phases have the run's learning rate, with a schedule of their own. The task of an example chooses the
    weights to compute with, so that it is defined in the scenario ``task`` only.
    """

    @attrs.frozen
    class Config:
        """Options of `PackNet`."""

        prune: float = option(
            0.75, "fraction of a task's weights, in each layer, that is pruned", at_least(0), at_most(1)
        )
        retrain: float = option(
            1 / 3, "fraction of a task's steps that follow the pruning", at_least(0), at_most(1)
        )
        norm: bool = option(
            True, "standardise the encoding before the head (8 groups of channels, no parameters)"
        )

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm)
        self.owners = BufferDict()
        """For each weight the number of its task, from 1, or `FREE`."""
        self._config = config
        self._weights = [name for name, weight in self.base.named_parameters() if weight.ndim > 1]
        if not self._weights:
            raise FitError("learner 'packnet' needs a base with convolutions or linear layers")
        for name in self._weights:
            self.owners[name] = torch.full_like(self.base.get_parameter(name), FREE, dtype=torch.int16)
        self._before: dict[str, Tensor] = {}  # from after_backward to after_step

    def start(self, task: Task) -> Trainable:
        head = self.heads.add_task(task)
        for name in self._weights:
            owner = self.owners[name]
            self.owners[name] = torch.where(owner == FREE, len(self.heads), owner)
        first = len(self.heads) == 1
        trained = [self.base] if first else [self.base.get_parameter(name) for name in self._weights]
        return [*trained, head, self.owners]

    def phases(self, task: Task) -> Sequence[Phase]:
        retrain = self._config.retrain
        return [Phase("train", 1 - retrain), Phase("retrain", retrain)]

    def start_phase(self, task: Task, phase: Phase) -> None:
        """Prune the weights of the task."""
        for name in self._weights:
            weight, own = self.base.get_parameter(name), self._owned(name)
            count = round(self._config.prune * int(own.sum()))
            released = torch.zeros_like(own).flatten()
            magnitude = weight.abs().masked_fill(~own, torch.inf).flatten()
            released[magnitude.argsort(stable=True)[:count]] = True
            pruned = released.view(weight.shape)
            weight.masked_fill_(pruned, 0.0)
            self.owners[name] = self.owners[name].masked_fill(pruned, FREE)

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        number = 1 + list(self.heads).index(task_id)
        weights = {}
        for name in self._weights:
            weight, owner = self.base.get_parameter(name), self.owners[name]
            weights[name] = weight.masked_fill((owner == FREE) | (owner > number), 0.0)
        features = functional_call(self.base, weights, (dict(inputs),))
        return self.heads.predict(features.encoding, task_id, inputs)

    def after_backward(self, task: Task, step: TrainingStep) -> None:
        for name in self._weights:
            weight = self.base.get_parameter(name)
            self._before[name] = weight.detach().clone()
            if weight.grad is not None:
                weight.grad.masked_fill_(~self._owned(name), 0.0)

    def after_step(self, task: Task, step: TrainingStep) -> None:
        for name, before in self._before.items():  # undoes weight decay and momentum of other tasks' weights
            weight = self.base.get_parameter(name).detach()
            weight.copy_(torch.where(self._owned(name), weight, before))
        self._before.clear()

    def record(self) -> dict[str, float]:
        owners = [self.owners[name] for name in self._weights]
        free = sum(int((owner == FREE).sum()) for owner in owners)
        return {"free": free / sum(owner.numel() for owner in owners)}

    def _owned(self, name: str) -> Tensor:
        """Which elements of a weight belong to the current task."""
        return self.owners[name] == len(self.heads)
