"""A small multilayer perceptron, for vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from torch import Tensor, nn

from sidetune_core.api import Base, InputShapes, StagedSide, at_least, load_weights, option

from ._flat import flat, orthogonal, width


class MLP(StagedSide):
    """Two linear layers with tanh on all inputs, flattened and one after another in the order of their names, and a linear one to the
    base's encoding, of whatever shape.

    Raises:
        WeightsError: weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of MLP."""

        width: int = option(32, "units of each layer", at_least(1))
        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        self.first = orthogonal(nn.Linear(width(inputs), config.width))
        self.second = orthogonal(nn.Linear(config.width, config.width))
        self.last = orthogonal(nn.Linear(config.width, math.prod(base.shape)))
        self.tanh = nn.Tanh()
        self.stage_shapes = ((config.width,),) * 2
        self._shape = tuple(base.shape)
        load_weights(
            self,
            config.weights,
            owner="side 'mlp'",
            packaged=Path(__file__).parent / "weights" / "mlp.safetensors",
        )

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """All inputs as rows."""
        return flat(inputs)

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """Two layers, each with tanh."""
        return [(self.first, self.tanh), (self.second, self.tanh)]

    def project(self, activation: Tensor) -> Tensor:
        """The last layer, (B, *base.shape)."""
        encoding: Tensor = self.last(activation)
        return encoding.view(-1, *self._shape)
