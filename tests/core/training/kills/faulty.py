"""A learner of independent tasks, unless the variable ``FAULT`` says what goes wrong in the task t1."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Batch, Components, Heads, Learner, Task, TrainingStep


class Faulty(Learner):
    """Trains a linear layer and a head for each task on a frozen base."""

    @attrs.frozen
    class Config:
        """No options."""

    independent_tasks = True

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.layers = nn.ModuleDict()
        self.heads = Heads(self.base.shape)

    def start(self, task: Task) -> list[Any]:
        self.layers[task.id] = nn.Linear(16, 16)
        return [self.layers[task.id], self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        encoding = self.layers[task_id](self.base(inputs).encoding)
        if os.environ.get("FAULT") == "reads" and task_id == "t1":
            encoding = encoding + self.layers["t0"](encoding)
        return self.heads.predict(encoding, task_id)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        losses = dict(super().losses(batch, task, step))
        if self._fails("diverges", task, step):
            losses["loss"] = losses["loss"] * float("nan")
        return losses

    def after_step(self, task: Task, step: TrainingStep) -> None:
        if self._fails("raises", task, step):
            raise ValueError("no such luck")
        if self._fails("killed", task, step):
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("FAULT") == "stopped" and task.id == "t1" and step.number >= 2:
            if step.number == 2:
                os.kill(int(os.environ["MAIN"]), signal.SIGTERM)
            time.sleep(1)  # until the main process has forwarded the signal

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        if os.environ.get("FAULT") == "changes" and task.id == "t1":
            with torch.no_grad():
                self.base.last.bias += 1

    def _fails(self, how: str, task: Task, step: TrainingStep) -> bool:
        return os.environ.get("FAULT") == how and task.id == "t1" and step.number == 5
