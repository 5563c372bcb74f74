"""A learner whose loss depends on some examples of a batch only, as with masks or rare classes."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Batch, Components, Heads, Learner, Task, Trainable, TrainingStep

KNOWN = 2
"""Examples of each batch that have a loss: all of them in the shard of the first process."""


class Partial(Learner):
    """Trains a head. Where a shard has no example with a loss, its loss is a constant."""

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)

    def start(self, task: Task) -> Trainable:
        return [self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        known = max(0, KNOWN - step.rows.start)
        if not known:
            return {"loss": torch.zeros(())}
        output = self(batch.inputs, task.id)[:known]
        total = torch.nn.functional.cross_entropy(output, batch.targets[:known], reduction="sum")
        return {"loss": total / len(batch.targets)}
