"""A small multilayer perceptron for vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    InputShapes,
    StagedSide,
    at_least,
    flat_size,
    flatten_inputs,
    init_orthogonal,
    load_weights,
    option,
)


class MLP(StagedSide):
    """Two linear layers with tanh and a linear layer to the base's encoding of any shape.

    Input: all inputs, flattened and concatenated in alphabetical order.

    Raises:
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of MLP."""

        width: int = option(32, "units of each layer", at_least(1))
        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        self.first = init_orthogonal(nn.Linear(flat_size(inputs), config.width))
        self.second = init_orthogonal(nn.Linear(config.width, config.width))
        self.last = init_orthogonal(nn.Linear(config.width, math.prod(base.shape)))
        self.tanh = nn.Tanh()
        self.stage_shapes = ((config.width,),) * 2
        self._shape = tuple(base.shape)
        load_weights(self, config.weights, owner="side 'mlp'")

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """All inputs, flattened and concatenated."""
        return flatten_inputs(inputs)

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """Two layers, each with tanh."""
        return [(self.first, self.tanh), (self.second, self.tanh)]

    def project(self, activation: Tensor) -> Tensor:
        """The last layer, (B, *base.shape)."""
        encoding: Tensor = self.last(activation)
        return encoding.view(-1, *self._shape)
