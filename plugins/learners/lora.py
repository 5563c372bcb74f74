"""Low-rank adaptation (LoRA) of a frozen base, for each task."""

from __future__ import annotations

from typing import Literal

import attrs
from torch import Tensor, nn

from sidetune_core.api import Components, FitError, at_least, largest_rank, low_rank_update, more_than, option

from ._added_layers import AddedLayers
from ._task_inference import InferenceOptions


class LoRA(AddedLayers):
    """Every task trains low-rank updates of the layers of the frozen base, and a head.

    Hu et al. (LoRA, ICLR 2022), eq. 3: a layer of weight W computes ``h = W x + (alpha / r) B A x`` with A of
    r rows and B zero at first, so that a task starts at the base. Biases and norms stay those of the base,
    with its statistics. The paper updates the projections of attention; here, each linear layer and
    convolution. For a convolution, A is one of the same kernel to r channels and B one of 1 x 1, as in peft;
    convolutions in groups stay frozen. The update can be added to W after training.

    Side ``fork`` with ``--side.train lora`` updates the layers after a cached activation only; this learner
    updates all of the base, and computes it in each step.
    """

    @attrs.frozen
    class Config(InferenceOptions):
        """Options of `LoRA`."""

        rank: int = option(8, "rank r of an update", at_least(1))
        alpha: float | None = option(
            None, "updates are scaled by alpha / rank; none: a scale of 1", more_than(0)
        )
        layers: Literal["all", "conv", "linear"] = option(
            "all", "layers of the base with updates: convolutions, linear layers, or both"
        )

    name = "lora"

    _config: Config

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        self._scale = 1.0 if config.alpha is None else config.alpha / config.rank
        if config.rank > (largest := largest_rank(self.layers)):
            raise FitError(
                f"learner 'lora': --learner.rank {config.rank} is more than the {largest} inputs or outputs "
                "of the widest layer; an update of a lower rank expresses as much"
            )

    @property
    def condition(self) -> str:
        chosen = self._config.layers
        return ", in one group" + ("" if chosen == "all" else f" and of --learner.layers {chosen}")

    def make(self, layer: nn.Module) -> nn.Module | None:
        kind = {"all": nn.Module, "conv": nn.Conv2d, "linear": nn.Linear}[self._config.layers]
        return low_rank_update(layer, self._config.rank) if isinstance(layer, kind) else None

    def add(self, added: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        update: Tensor = added(x)
        return output + (update if self._scale == 1 else self._scale * update)
