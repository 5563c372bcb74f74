"""Side `conv` or `mlp`, depending on the inputs of the env."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    InputShapes,
    MissionFiLM,
    StagedSide,
    has_mission,
    load_weights,
    option,
    without_mission,
)

from .conv import Conv
from .mlp import MLP


class Combined(StagedSide):
    """`Conv` if the env has an input ``image`` (C, H, W), otherwise `MLP`.

    A mission in words (``--env.missions``) scales and shifts the channels of the image (see `MissionFiLM`).

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
        self.mission = MissionFiLM(inputs["image"][0]) if has_image and has_mission(inputs) else None
        inputs = without_mission(inputs) if self.mission is not None else inputs
        network = Conv(Conv.Config(), inputs, base) if has_image else MLP(MLP.Config(), inputs, base)
        self.network: StagedSide = network
        self.stage_shapes = self.network.stage_shapes
        load_weights(self, config.weights, owner="side 'combined'")

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.network.stem(inputs if self.mission is None else self.mission(inputs))

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        return self.network.stages()

    def project(self, activation: Tensor) -> Tensor:
        return self.network.project(activation)
