"""Side `conv` or `mlp`, depending on the inputs of the env."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from torch import Tensor, nn

from sidetune_core.api import Base, InputShapes, StagedSide, load_weights, option

from .conv import Conv
from .mlp import MLP


class Combined(StagedSide):
    """`Conv` if the env has an input ``image`` (C, H, W), otherwise `MLP`.

    Raises:
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of Combined."""

        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        has_image = len(inputs.get("image", ())) == 3
        network = Conv(Conv.Config(), inputs, base) if has_image else MLP(MLP.Config(), inputs, base)
        self.network: StagedSide = network
        self.stage_shapes = self.network.stage_shapes
        load_weights(self, config.weights, owner="side 'combined'")

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.network.stem(inputs)

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        return self.network.stages()

    def project(self, activation: Tensor) -> Tensor:
        return self.network.project(activation)
