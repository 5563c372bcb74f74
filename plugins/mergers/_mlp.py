"""The small network that mergers put behind an encoding."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn

from sidetune_core.api import Shape


class Adapter(nn.Module):
    """Two layers that keep the shape of an encoding.

    (C,) and (L, C): linear, BatchNorm, ReLU, linear, at every position. (C, H, W): a learned scale (at first 0.9), 1 x 1 convolution,
    GroupNorm (2 groups), ReLU, 1 x 1 convolution. These are the "MLP adapter" of the original's iCIFAR (8,448 parameters for (64,)) and
    Taskonomy (145 for (8, 16, 16)) experiments.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.rank = len(shape)
        if self.rank == 3:
            channels = shape[0]
            self.scale = nn.Parameter(torch.tensor(0.9))
            self.first: nn.Module = nn.Conv2d(channels, channels, 1, bias=False)
            self.norm: nn.Module = nn.GroupNorm(gcd(2, channels), channels)
            self.second: nn.Module = nn.Conv2d(channels, channels, 1, bias=False)
        else:
            channels = shape[-1]
            self.first, self.norm, self.second = (
                nn.Linear(channels, channels),
                nn.BatchNorm1d(channels),
                nn.Linear(channels, channels),
            )
        self.activation = nn.ReLU()

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, *shape) to the same."""
        if self.rank == 3:
            adapted: Tensor = self.second(self.activation(self.norm(self.first(self.scale * encoding))))
            return adapted
        rows = encoding.reshape(-1, encoding.shape[-1])
        adapted = self.second(self.activation(self.norm(self.first(rows))))
        return adapted.reshape(encoding.shape)
