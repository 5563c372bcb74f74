"""Base `conv` or `mlp`, depending on the inputs of the env."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor, nn

from sidetune_core.api import Base, Features, InputShapes, at_least, load_weights, option

from .conv import Conv
from .mlp import MLP


class Combined(Base):
    """`Conv` if the env has an input ``image`` (C, H, W), with or without further inputs; otherwise `MLP`.

    Encoding (B, width). Taps: those of `Conv` or `MLP`.

    Raises:
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of Combined."""

        width: int = option(64, "length of the encoding, and units of each layer of `mlp`", at_least(1))
        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        self.network: Conv | MLP
        if len(inputs.get("image", ())) == 3:
            self.network = Conv(Conv.Config(config.width), inputs)
        else:
            self.network = MLP(MLP.Config(config.width), inputs)
        self.shape, self.tap_shapes = self.network.shape, self.network.tap_shapes
        load_weights(self, config.weights, owner="base 'combined'")

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, width), and the taps."""
        features: Features = nn.Module.__call__(self.network, inputs)  # not cached a second time
        return features
