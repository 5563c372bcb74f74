"""Feature-wise modulation of the base by the side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import gcd

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape, at_least, option


class FiLM(Merger):
    """``B * m + b`` with a scale ``m = p(h) + S`` and a shift ``b = q(h) + S`` made from the side S (FiLM: Perez et al., AAAI 2018).

    ``h = ReLU(GN(r(S)))`` is a hidden layer, GN is GroupNorm of 2 groups, and p, q, r are linear at every position: 1 x 1 convolutions
    on maps (C, H, W), linear layers on vectors (C,) and at every position of sequences (L, C); r has no bias. Scale and shift belong to
    each position, where the paper has one for each channel. On (8, 16, 16) it has the original's 1,680 parameters; the original took no
    vectors.

    With more than two encodings S is the mean of all that are not the base, so that the size does not grow with the number of tasks.
    """

    @attrs.frozen
    class Config:
        """How wide the hidden layer is."""

        hidden: int = option(64, "width of the hidden layer, at least 4: two groups of two", at_least(4))

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
        """(B, *shape) out of ``count`` tensors (B, *shape)."""
        base, *sides = encodings
        side = torch.stack(sides).mean(0)
        hidden = self.hidden(
            side if self.maps else side.flatten(0, -2)
        )  # (B, hidden, H, W), or (rows, hidden)
        scale: Tensor = self.scale(hidden).reshape(side.shape) + side
        shift: Tensor = self.shift(hidden).reshape(side.shape) + side
        return base * scale + shift
