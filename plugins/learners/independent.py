"""Independent networks: one for each task, all of it trainable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from sidetune_core.api import Components, Heads, Learner, Task

from ._merged import merged
from ._norm import NormConfig


class Independent(Learner):
    """Every task has a pretrained base of its own, and a side and a merger where a side is chosen; nothing is shared.

    Nothing can be forgotten, and nothing that a task learns can help another. The price is a whole network for each task, in memory
    and in every checkpoint.
    """

    Config = NormConfig
    optional_components = frozenset({"side", "merger"})
    pretrained: ClassVar[bool] = True

    def __init__(self, config: NormConfig, components: Components) -> None:
        super().__init__()
        self._parts = components
        self.bases = nn.ModuleDict()
        self.sides = nn.ModuleDict()
        self.mergers = nn.ModuleDict()
        self.heads = Heads(components.base(pretrained=False).shape, config.norm)

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        self.heads.add_task(
            task
        )  # before the rest, so that its random weights are those that fine-tuning gives it
        base = self._parts.base(self.pretrained)
        self.bases[task.id] = base
        if self._parts.side is not None:
            self.sides[task.id] = self._parts.side(base, self.pretrained)
        if self._parts.merger is not None:
            self.mergers[task.id] = self._parts.merger(base, 2)
        return [
            components[task.id]
            for components in (self.bases, self.sides, self.mergers, self.heads)
            if task.id in components
        ]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        network = [
            components[task_id]
            for components in (self.bases, self.sides, self.mergers)
            if task_id in components
        ]
        return self.heads.predict(merged(inputs, *network), task_id)
