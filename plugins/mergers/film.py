"""Feature-wise linear modulation of the base by the side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import gcd

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape, at_least, option


class FiLM(Merger):
    """``B * m + b`` with scale ``m = p(h) + S`` and shift ``b = q(h) + S`` (FiLM: Perez et al., AAAI 2018).

    S is the side's encoding, ``h = ReLU(GN(r(S)))`` a hidden layer, GN GroupNorm with 2 groups, and p, q, r
    are linear at every position: 1 x 1 convolutions on maps (C, H, W), linear layers on vectors (C,) and on
    sequences (L, C); r has no bias. There are a scale and a shift for each position, in the paper for each
    channel. On (8, 16, 16) the number of parameters is the original's, 1,680; the original accepts no
    vectors.

    With more than two encodings S is the mean of all except the base, so that the size does not grow with
    the number of tasks.
    """

    @attrs.frozen
    class Config:
        """Options of the FiLM merger."""

        hidden: int = option(64, "width of the hidden layer", at_least(4))

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        self.maps = len(shape) == 3
        layer: Callable[..., nn.Module] = partial(nn.Conv2d, kernel_size=1) if self.maps else nn.Linear
        channels, width = shape[0] if self.maps else shape[-1], config.hidden
        self.hidden = nn.Sequential(
            layer(channels, width, bias=False), nn.GroupNorm(gcd(2, width), width), nn.ReLU()
        )
        self.scale, self.shift = layer(width, channels), layer(width, channels)

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from ``count`` tensors (B, *shape)."""
        base, *sides = encodings
        side = torch.stack(sides).mean(0)
        hidden = self.hidden(
            side if self.maps else side.flatten(0, -2)
        )  # (B, hidden, H, W) or (rows, hidden)
        scale: Tensor = self.scale(hidden).reshape(side.shape) + side
        shift: Tensor = self.shift(hidden).reshape(side.shape) + side
        return base * scale + shift
