"""Learners that an extension has to read the data of earlier tasks for, each for another reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Batch, Components, Heads, Learner, Order, Task, TrainingStep


class Plain(Learner):
    """Trains a head on a frozen base."""

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)

    def start(self, task: Task) -> list[Any]:
        return [self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)


class Counts(Plain):
    """Asks each task for the length of an epoch when it is started."""

    def start(self, task: Task) -> list[Any]:
        assert task.steps_per_epoch(5) > 0
        return super().start(task)


class Sizes(Plain):
    """Asks each task for its size, which is no member of every task."""

    def start(self, task: Task) -> list[Any]:
        assert task.training_size() > 0  # type: ignore[attr-defined]
        return super().start(task)


class Replays(Plain):
    """Trains all heads further, with examples of the first task."""

    def __init__(self, config: Plain.Config, components: Components) -> None:
        super().__init__(config, components)
        self.first: Task | None = None

    def start(self, task: Task) -> list[Any]:
        self.first = self.first or task
        return super().start(task)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        losses = dict(super().losses(batch, task, step))
        if self.first is not None and self.first is not task:
            old = next(self.first.train(lambda inputs: torch.empty(0), Order(0, 5, step.number)))
            encoding = self.base(old.inputs).encoding
            losses["replay"] = self.heads.predict(encoding, task.id).square().mean()
        return losses


class Drifts(Plain):
    """Changes its base when a task ends, which nobody can know before."""

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        with torch.no_grad():
            self.base.last.bias += 1
