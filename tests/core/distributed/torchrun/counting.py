"""A learner with a state that depends on which examples a process sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Batch, Components, Heads, Learner, Task


class Counting(Learner):
    """Trains a head, and adds up the targets."""

    @attrs.frozen
    class Config:
        """No options."""

    total: Tensor

    def __init__(self, config: Config, parts: Components) -> None:
        super().__init__()
        self.base = parts.base()
        self.heads = Heads(self.base.shape)
        self.register_buffer("total", torch.zeros(1, dtype=torch.int64))

    def start(self, task: Task) -> list[Any]:
        return [self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        self.total += (batch.targets + 1).sum()
        return {}
