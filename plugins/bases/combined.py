"""A small network for whatever an environment shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
from torch import Tensor

from sidetune_core.api import Base, Features, InputShapes, at_least, load_weights, option

from .conv import Conv
from .mlp import MLP


class Combined(Base):
    """`Conv` where there is an input ``image`` (C, H, W), which other inputs join; `MLP` where there are vectors only.

    Encoding (B, width). Taps: those of `Conv` or `MLP`.

    Raises:
        WeightsError: weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of Combined."""

        width: int = option(
            64, "length of the encoding, and units of each layer where there are vectors only", at_least(1)
        )
        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        sees = len(inputs.get("image", ())) == 3
        self.network = (
            Conv(Conv.Config(config.width), inputs) if sees else MLP(MLP.Config(config.width), inputs)
        )
        self.shape, self.tap_shapes = self.network.shape, self.network.tap_shapes
        load_weights(
            self,
            config.weights,
            owner="base 'combined'",
            packaged=Path(__file__).parent / "weights" / "combined.safetensors",
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, width), and the taps."""
        return self.network.forward(inputs)  # not called: the core remembers what the whole base gives, once
