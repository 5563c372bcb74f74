"""The ladder in its text form: a narrow transformer that reads the base's hidden states through learned gates."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    Features,
    FitError,
    InputShapes,
    Side,
    at_least,
    at_most,
    more_than,
    option,
)

from ._sequences import Layer, real_positions


class LadderText(Side):
    """A narrow transformer with a layer for each of the base's taps (L, C), after Sung et al. (LST, NeurIPS 2022, section 3.2).

    It begins with the first tap, the base's embeddings, brought to `width` channels. Every layer i takes
    ``u_i h + (1 - u_i) D_i(tap_i)``, where h is what the layer before gave, D_i a linear layer to `width` channels, ``u_i =
    sigmoid(a_i / T)`` and a_i is learned, 0 at first; the last one takes the base's encoding as its tap. A linear layer brings the top
    to the base's channels. No gradient goes through the base. Layers begin at random, where LST prunes the base's.

    Encoding: (B, L, C), zero where an example has ended. The base's option ``tap-every`` makes a ladder of fewer layers.

    Raises:
        FitError: the base has no taps (L, C), or `heads` does not divide `width`.
    """

    @attrs.frozen
    class Config:
        """Options of the ladder."""

        width: int = option(
            96,
            "channels of the ladder, a multiple of 'heads'; LST takes an eighth of the base's",
            at_least(1),
        )
        heads: int = option(4, "heads of attention", at_least(1))
        temperature: float = option(
            0.1, "T of the gates: the smaller, the quicker they open and close", more_than(0)
        )
        dropout: float = option(
            0.1, "share of activations that are dropped in training", at_least(0), at_most(0.9)
        )

    needs_taps = True

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        if (
            len(base.shape) != 2
            or "mask" not in inputs
            or not base.tap_shapes
            or any(len(shape) != 2 for shape in base.tap_shapes)
        ):
            raise FitError(
                f"side 'ladder-text' needs an input 'mask' and a base with taps (L, C) and an encoding (L, C), such as minilm; "
                f"got {dict(inputs)} and one with taps {[tuple(shape) for shape in base.tap_shapes]} that encodes as {tuple(base.shape)}"
            )
        channels = [shape[1] for shape in (*base.tap_shapes, base.shape)]
        rungs = len(channels) - 1
        self.temperature = config.temperature
        self.adapters = nn.ModuleList(nn.Linear(count, config.width) for count in channels)
        self.gates = nn.Parameter(torch.zeros(rungs))
        self.layers = nn.ModuleList(
            Layer(config.width, config.heads, config.dropout, "side 'ladder-text'") for _ in range(rungs)
        )
        self.last = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, base.shape[1]))

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The encoding (B, L, C), out of the base's taps and its encoding; of the inputs only ``mask`` is read."""
        mask = inputs["mask"]
        current, *rest = (
            adapter(tap)
            for adapter, tap in zip(self.adapters, (*features.taps, features.encoding), strict=True)
        )
        real = real_positions(mask)
        for gate, tap, one in zip(
            torch.sigmoid(self.gates / self.temperature), rest, self.layers, strict=True
        ):
            current = one(gate * current + (1 - gate) * tap, real)
        encoding: Tensor = self.last(current)
        return encoding.masked_fill((mask == 0)[..., None], 0)
