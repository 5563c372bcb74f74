"""Feature extraction: the base as it is, and a head for each task."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sidetune_core.api import Heads, Learner, Parts, Task

from ._norm import NormConfig


class Features(Learner):
    """Only the head of the task is trained, on the frozen base's encoding."""

    Config = NormConfig

    def __init__(self, config: NormConfig, parts: Parts) -> None:
        super().__init__()
        self.base = parts.base()
        self.heads = Heads(self.base.shape, config.norm)

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        return [self.heads.start(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)
