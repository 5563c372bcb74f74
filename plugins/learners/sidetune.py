"""Side-tuning: a small network for each task beside a base that never changes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sidetune_core.api import Heads, Learner, Parts, Task

from ._norm import NormConfig


class SideTune(Learner):
    """``T_t(norm(M_t(B(x), S_t(x))))`` with the base B frozen (Zhang et al., ECCV 2020).

    Each task gets a side, a merger and a head of its own; nothing that an earlier task uses is ever trained again, so nothing is
    forgotten, and the cost of a task does not grow with their number.
    """

    Config = NormConfig
    needs = frozenset({"base", "side", "merger"})

    def __init__(self, config: NormConfig, parts: Parts) -> None:
        super().__init__()
        assert parts.side is not None
        assert parts.merger is not None
        self._make_side, self._make_merger = parts.side, parts.merger
        self.base = parts.base()
        self.sides = nn.ModuleDict()
        self.mergers = nn.ModuleDict()
        self.heads = Heads(self.base.shape, config.norm)
        self._current = ""

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        self.sides[task.id] = self._make_side(self.base)
        self.mergers[task.id] = self._make_merger(self.base, 2)
        self._current = task.id
        return [self.sides[task.id], self.mergers[task.id], self.heads.start(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        features = self.base(inputs)
        side = self.sides[task_id](inputs, features)
        return self.heads.predict(self.mergers[task_id]([features.encoding, side]), task_id)

    def record(self) -> dict[str, float]:
        """The merger's weights in the task that is being learnt."""
        merger = self.mergers[self._current]
        return {f"merger.{name}": value for name, value in merger.weights().items()}  # type: ignore[operator]
