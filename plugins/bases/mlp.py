"""A multilayer perceptron for vectors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain, pairwise, repeat

import attrs
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    Block,
    Continuation,
    Features,
    InputShapes,
    at_least,
    flat_size,
    flatten_inputs,
    init_orthogonal,
    load_weights,
    option,
    select_blocks,
)

from ._continuation import as_trainable, copy_without


class MLP(Base):
    """Linear layers with tanh on all inputs, flattened and concatenated in alphabetical order.

    With two layers of 64 units it is the usual network of PPO for vectors (Schulman et al. 2017, section
    6.1). Encoding (B, width); without layers, the concatenated inputs. Taps: the output of each layer.

    Raises:
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of MLP."""

        width: int = option(64, "units of each layer", at_least(1))
        layers: int = option(2, "number of layers; 0 encodes as the concatenated inputs", at_least(0))
        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        size = flat_size(inputs)
        widths = chain([size], repeat(config.width, config.layers))
        self.layers = nn.ModuleList(init_orthogonal(nn.Linear(*pair)) for pair in pairwise(widths))
        self.shape = (config.width if config.layers else size,)
        self.tap_shapes = (self.shape,) * config.layers
        load_weights(self, config.weights, owner="base 'mlp'")

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, width), and the output of each layer."""
        current, taps = flatten_inputs(inputs), []
        for layer in self.layers:
            current = layer(current).tanh()
            taps.append(current)
        return Features(current, tuple(taps))

    def blocks(self) -> tuple[Block, ...]:
        """The layers, all of one width but the first."""
        return tuple(
            Block(f"layers.{index}", index - 1, optional=index > 0) for index in range(len(self.layers))
        )

    def continued(self, tap: int, keep: Collection[int] | None = None) -> _LayersAfterTap:
        """See `Continuable`."""
        kept = select_blocks(self.blocks(), len(self.tap_shapes), tap, keep)
        parts = [layer for index, layer in enumerate(self.layers) if index not in kept]
        return as_trainable(_LayersAfterTap(copy_without(self.layers, parts)), self)


class _LayersAfterTap(Continuation):
    """Linear layers with tanh; (B, width) to (B, width)."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        for layer in self.layers:
            tap = layer(tap).tanh()
        return tap
