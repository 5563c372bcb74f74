"""Progressive neural networks (PNN): a column for each task, with lateral connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Components,
    FitError,
    Heads,
    OptionError,
    StagedSide,
    Task,
    Trainable,
    option,
)

from .._task_inference import InferenceOptions, PerTaskNetworks
from .laterals import Column
from .original import OriginalColumn


class PNN(PerTaskNetworks):
    """Side-tuning with lateral connections from the base's taps and earlier sides into a side's stages.

    Rusu et al. (2016), as in the baseline of the original side-tuning code: the first column is the frozen
    base, the column of a task is a staged side, and the outputs of column and base are merged. Nothing that
    an earlier task uses is trained again. With ``dense``, each earlier column runs once per batch, and the
    number of a task's adapters grows with the number of columns.

    ``form`` paper, the default, adds laterals before the activation of every stage but the first (eq. 2); it
    fits any base with taps and any side with stages, and its adapters have 1 x 1 layers only. ``form``
    original is that of the original code (see `OriginalColumn`): laterals before the norm, into the first
    stage too, from one tap of the base for each stage, and with 3 x 3 adapters between columns. For side
    fcn4 above resnet44 a column then has 37,428 parameters, and 30,947 more for each earlier task with
    ``dense``.

    Raises:
        FitError: the base has no taps, the side no stages, or their activations are of different ranks; or
            see `OriginalColumn`.
        OptionError: `adapter` is linear with ``form`` original.
    """

    @attrs.frozen
    class Config(InferenceOptions):
        """Options of `PNN`."""

        adapter: Literal["linear", "mlp"] = option(
            "mlp", "adapters: one 1 x 1 layer, or a learned scale and two 1 x 1 layers with ReLU"
        )
        form: Literal["paper", "original"] = option(
            "paper",
            "laterals before activations, from the second stage on, by 1 x 1 layers; or as in the original "
            "side-tuning code: before norms, into every stage, by 3 x 3 convolutions between columns",
        )
        dense: bool = option(False, "lateral connections from all earlier columns, not from the base alone")

    needs = frozenset({"base", "side", "merger"})
    needs_taps = True

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        assert components.side is not None
        assert components.merger is not None
        self._config, self._make_side, self._make_merger = config, components.side, components.merger
        self.base = components.base()
        if not self.base.tap_shapes:
            raise FitError("learner 'pnn' needs a base with taps, such as resnet44; this base has none")
        if config.form == "original" and config.adapter == "linear":
            raise OptionError(
                "learner 'pnn': the adapters of --learner.form original are not linear; leave out "
                "--learner.adapter"
            )
        side = _require_stages(self._make_side(self.base))
        if config.form == "original":
            OriginalColumn(self.base.tap_shapes, 0, side)  # raises where it does not fit
        self.sides = nn.ModuleDict()
        self.laterals = nn.ModuleDict()
        self.mergers = nn.ModuleDict()
        self.heads = Heads(self.base.shape, config.norm)

    def start(self, task: Task) -> Trainable:
        side = _require_stages(self._make_side(self.base))
        columns = self.sides.values() if self._config.dense else []
        earlier = [_require_stages(column).stage_shapes for column in columns]
        if self._config.form == "original":
            self.laterals[task.id] = OriginalColumn(self.base.tap_shapes, len(earlier), side)
        else:
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
        side = _require_stages(self.sides[task_id]).project(column[-1])
        merged = self.mergers[task_id]([features.encoding, side])
        return self.heads.predict(merged, task_id, inputs)

    def record(self) -> dict[str, float]:
        """The weights of the latest task's merger."""
        merger = list(self.mergers.values())[-1]
        return {f"merger.{name}": value for name, value in merger.weights().items()}  # type: ignore[operator]

    def _run(
        self, task_id: str, inputs: Mapping[str, Tensor], activations: list[list[Tensor]]
    ) -> list[Tensor]:
        """The activations of a task's column."""
        laterals = self.laterals[task_id]
        side = _require_stages(self.sides[task_id])
        if isinstance(laterals, OriginalColumn):
            return laterals.run(side, inputs, activations)
        assert isinstance(laterals, Column)
        return side.run(inputs, lambda stage: laterals.lateral_input(stage, activations))


def _require_stages(side: nn.Module) -> StagedSide:
    if not isinstance(side, StagedSide):
        name = type(side).__name__
        raise FitError(f"learner 'pnn' needs a side with stages, such as fcn4; {name} has none")
    return side
