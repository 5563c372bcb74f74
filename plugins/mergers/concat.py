"""Base and side joined along their channels, and projected back."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape


class Concat(Merger):
    """``T([B, S])``: all encodings joined along their channels, and a learned projection T from ``count * C`` back to C channels.

    (C,) and (L, C): a linear layer, at every position; the joint weights [W_B, W_S] contain every weighted sum of base and side.
    (C, H, W): the original's transfer network for joined maps (its single-task transfer experiments, ``TransferConv3`` of 2 C to C
    channels, without residual): 3 x 3 convolution to C, ReLU, 3 x 3 convolution, ReLU; 1,744 parameters for two of (8, 16, 16).
    """

    @attrs.frozen
    class Config:
        """The projection has no options."""

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        maps = len(shape) == 3
        self.channel_axis = 1 if maps else -1
        channels = shape[0] if maps else shape[-1]
        self.projection: nn.Module = nn.Linear(count * channels, channels)
        if maps:
            self.projection = nn.Sequential(
                nn.Conv2d(count * channels, channels, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(),
            )

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) out of ``count`` tensors (B, *shape)."""
        merged: Tensor = self.projection(torch.cat(list(encodings), self.channel_axis))
        return merged
