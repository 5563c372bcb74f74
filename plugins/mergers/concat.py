"""Concatenation of base and side along the channels, and a projection."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape


class Concat(Merger):
    """``T([B, S])``: all encodings concatenated along the channels, and a learned projection T to C channels.

    (C,) and (L, C): a linear layer at every position; its weights [W_B, W_S] can express every weighted sum
    of base and side. (C, H, W): 3 x 3 convolution to C channels, ReLU, 3 x 3 convolution, ReLU; 1,744
    parameters for two of (8, 16, 16). This is the network of the original single-task transfer experiments
    (``TransferConv3`` of 2 C to C channels, without residual).
    """

    @attrs.frozen
    class Config:
        """Options of the concat merger: none."""

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
        """(B, *shape) from ``count`` tensors (B, *shape)."""
        merged: Tensor = self.projection(torch.cat(list(encodings), self.channel_axis))
        return merged
