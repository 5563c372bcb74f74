"""A small network for whatever an environment shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from torch import Tensor, nn

from sidetune_core.api import Base, InputShapes, StagedSide, load_weights, option

from .conv import Conv
from .mlp import MLP


class Combined(StagedSide):
    """`Conv` where there is an input ``image`` (C, H, W), and `MLP` on vectors where there is none.

    Raises:
        WeightsError: weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of Combined."""

        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        sees = len(inputs.get("image", ())) == 3
        self.network: StagedSide = (
            Conv(Conv.Config(), inputs, base) if sees else MLP(MLP.Config(), inputs, base)
        )
        self.stage_shapes = self.network.stage_shapes
        load_weights(
            self,
            config.weights,
            owner="side 'combined'",
            packaged=Path(__file__).parent / "weights" / "combined.safetensors",
        )

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.network.stem(inputs)

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        return self.network.stages()

    def project(self, activation: Tensor) -> Tensor:
        return self.network.project(activation)
