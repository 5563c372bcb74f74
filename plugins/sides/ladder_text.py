"""Ladder side-tuning for text: a narrow transformer on gated hidden states of the base."""

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

from ._transformer_layer import TransformerLayer, attended_positions


class LadderText(Side):
    """A narrow transformer with one layer per tap (L, C) (Sung et al., LST, NeurIPS 2022, section 3.2).

    The input of the first layer is the first tap, the base's embeddings, projected to `width` channels. The
    input of layer i is ``u_i h + (1 - u_i) D_i(tap_i)`` with h the previous layer's output, D_i a linear
    layer to `width` channels, ``u_i = sigmoid(a_i / T)``, and a_i learned, initially 0; the tap of the last
    layer is the base's encoding. A linear layer projects the result to the base's channels. There is no
    backpropagation through the base. Layers are initialised randomly, whereas LST prunes the base's.

    Encoding: (B, L, C), zero at padding. The base's option ``tap-every`` reduces the number of layers.

    Raises:
        FitError: the base has no taps (L, C), or `heads` does not divide `width`.
    """

    @attrs.frozen
    class Config:
        """Options of the ladder."""

        width: int = option(
            96,
            "channels of the ladder, a multiple of 'heads'; an eighth of the base's in LST",
            at_least(1),
        )
        heads: int = option(4, "number of attention heads", at_least(1))
        temperature: float = option(0.1, "temperature T of the gates; lower is sharper", more_than(0))
        dropout: float = option(0.1, "dropout probability", at_least(0), at_most(0.9))

    needs_taps = True

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        is_sequence = all(len(shape) == 2 for shape in (base.shape, *base.tap_shapes))
        if not is_sequence or not base.tap_shapes or "mask" not in inputs:
            raise FitError(
                "side 'ladder-text' needs an input 'mask' and a base with taps (L, C) and an encoding (L, "
                "C), such as "
                f"minilm; got {dict(inputs)}, taps {[tuple(shape) for shape in base.tap_shapes]} and "
                "encoding "
                f"{tuple(base.shape)}"
            )
        channels = [shape[1] for shape in (*base.tap_shapes, base.shape)]
        rungs = len(channels) - 1
        self.temperature = config.temperature
        self.adapters = nn.ModuleList(nn.Linear(c_in, config.width) for c_in in channels)
        self.gates = nn.Parameter(torch.zeros(rungs))
        self.layers = nn.ModuleList(
            TransformerLayer(config.width, config.heads, config.dropout, "side 'ladder-text'")
            for _ in range(rungs)
        )
        self.last = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, base.shape[1]))

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The encoding (B, L, C), computed from the base's taps and encoding and the input ``mask``."""
        mask = inputs["mask"]
        taps = (*features.taps, features.encoding)
        hidden, *projected = (adapter(tap) for adapter, tap in zip(self.adapters, taps, strict=True))
        attended = attended_positions(mask)
        gates = torch.sigmoid(self.gates / self.temperature)
        for gate, tap, layer in zip(gates, projected, self.layers, strict=True):
            hidden = layer(gate * hidden + (1 - gate) * tap, attended)
        encoding: Tensor = self.last(hidden)
        return encoding.masked_fill((mask == 0)[..., None], 0)
