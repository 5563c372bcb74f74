"""A multilayer perceptron, for vectors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import attrs
from torch import Tensor, nn

from sidetune_core.api import Base, Features, InputShapes, at_least, load_weights, option

from ._flat import flat, orthogonal, width


class MLP(Base):
    """Linear layers with tanh on all inputs, flattened and one after another in the order of their names. Encoding (B, width), or the
    inputs themselves where there are no layers.

    With two layers of 64 units it is the network that PPO is usually given for vectors (Schulman et al. 2017, section 6.1). Taps: what
    each layer gives.

    Raises:
        WeightsError: weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of MLP."""

        width: int = option(64, "units of each layer", at_least(1))
        layers: int = option(2, "how many layers; 0 for the inputs as they are", at_least(0))
        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        widths = [width(inputs), *[config.width] * config.layers]
        self.layers = nn.ModuleList(orthogonal(nn.Linear(*pair)) for pair in pairwise(widths))
        self.shape = (widths[-1],)
        self.tap_shapes = (self.shape,) * config.layers
        load_weights(
            self,
            config.weights,
            owner="base 'mlp'",
            packaged=Path(__file__).parent / "weights" / "mlp.safetensors",
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, width), and what each layer gives."""
        current, taps = flat(inputs), []
        for layer in self.layers:
            current = layer(current).tanh()
            taps.append(current)
        return Features(current, tuple(taps))
