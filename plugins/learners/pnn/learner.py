"""Progressive networks: a column for each task, which earlier columns feed through adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Components, FitError, Heads, Learner, StagedSide, Task, option

from .._norm import NormConfig
from .laterals import Column


class PNN(Learner):
    """Side-tuning whose sides are columns: adapters lead from the base's taps, and from earlier columns, into their stages.

    Rusu et al. (2016), in the form in which the original side-tuning code compares with it: the first column is the frozen base, the
    column of a task is a staged side, and column and base are merged in the end. Nothing that an earlier task uses is trained again.
    With ``dense``, each earlier column runs once for a batch, and the adapters of a task grow with the number of columns.

    Raises:
        FitError: the base has no taps, the side no stages, or their activations are of different ranks.
    """

    @attrs.frozen
    class Config(NormConfig):
        """Options of `PNN`."""

        adapter: Literal["linear", "mlp"] = option(
            "mlp", "adapters of one 1 x 1 layer, or of two with ReLU between and a learned scale"
        )
        dense: bool = option(False, "connect from all earlier columns, not from the base alone")

    needs = frozenset({"base", "side", "merger"})
    needs_taps = True

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        assert components.side is not None
        assert components.merger is not None
        self._config, self._make_side, self._make_merger = config, components.side, components.merger
        self.base = components.base()
        if not self.base.tap_shapes:
            raise FitError("learner 'pnn' needs a base with taps; this one has none")
        self._staged(self._make_side(self.base))
        self.sides = nn.ModuleDict()
        self.laterals = nn.ModuleDict()
        self.mergers = nn.ModuleDict()
        self.heads = Heads(self.base.shape, config.norm)

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        side = self._staged(self._make_side(self.base))
        earlier = (
            [self._staged(one).stage_shapes for one in self.sides.values()] if self._config.dense else []
        )
        aligned = [False] + [True] * len(earlier)
        self.laterals[task.id] = Column(
            [self.base.tap_shapes, *earlier], aligned, side.stage_shapes, self._config.adapter
        )
        self.sides[task.id] = side
        self.mergers[task.id] = self._make_merger(self.base, 2)
        return [side, self.laterals[task.id], self.mergers[task.id], self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        features = self.base(inputs)
        activations: list[list[Tensor]] = [list(features.taps)]
        if self._config.dense:
            with torch.no_grad():
                for earlier in self.sides:
                    if earlier == task_id:
                        break
                    activations.append(self._run(earlier, inputs, activations))
        column = self._run(task_id, inputs, activations)
        side = self._staged(self.sides[task_id]).project(column[-1])
        merged = self.mergers[task_id]([features.encoding, side])
        return self.heads.predict(merged, task_id)

    def record(self) -> dict[str, float]:
        """The latest merger's weights."""
        merger = list(self.mergers.values())[-1]
        return {f"merger.{name}": value for name, value in merger.weights().items()}  # type: ignore[operator]

    def _run(
        self, task_id: str, inputs: Mapping[str, Tensor], activations: list[list[Tensor]]
    ) -> list[Tensor]:
        """What the stages of a task's column give."""
        laterals = self.laterals[task_id]
        assert isinstance(laterals, Column)
        return self._staged(self.sides[task_id]).run(inputs, lambda stage: laterals.enter(stage, activations))

    def _staged(self, side: nn.Module) -> StagedSide:
        if not isinstance(side, StagedSide):
            raise FitError(
                f"learner 'pnn' needs a side with stages, such as fcn4; {type(side).__name__} has none"
            )
        return side
