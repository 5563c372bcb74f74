"""A learner that stores what it sees, and replays it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from sidetune_core.api import (
    Batch,
    BufferDict,
    Components,
    Heads,
    Learner,
    Task,
    Trainable,
    TrainingStep,
    mean_loss,
)


class Storing(Learner):
    """Fine-tunes on each batch and on that of the step before."""

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)
        self.stored = BufferDict()
        self._new: list[dict[str, Tensor]] = []

    def start(self, task: Task) -> Trainable:
        self.stored.replace({})
        return [self.base, self.heads.add_task(task), self.stored]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        rows = torch.arange(step.rows.start, step.rows.stop)
        columns = {"image": batch.inputs["image"], "target": batch.targets, "id": batch.ids, "row": rows}
        self._new.append({name: step.gather(column) for name, column in columns.items()})
        losses = {"loss": mean_loss(task, self(batch.inputs, task.id), batch)}
        if len(self.stored):
            output = self({"image": self.stored["image"][step.rows]}, task.id)
            targets = self.stored["target"][step.rows]
            losses["replay"] = mean_loss(task, output, Batch(batch.ids, batch.inputs, targets))
        return losses

    def after_step(self, task: Task, step: TrainingStep) -> None:
        self.stored.replace({name: torch.cat([new[name] for new in self._new]) for name in self._new[0]})
        self._new.clear()
