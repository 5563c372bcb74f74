"""MLP adapters on base and side: mergers `mlp`, `mlp-hidden`, `mlp2` and `resmlp`."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape


@attrs.frozen
class MLPOptions:
    """Options of the MLP mergers: none."""


class MLP(Merger):
    """``f(B) + S`` with a two-layer network f.

    Each encoding between base and side has a network of its own: ``f(B) + g1(P1) + ... + S``.
    """

    Config = MLPOptions

    def __init__(self, config: MLPOptions, shape: Shape, count: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(shape) for _ in range(count - 1))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from ``count`` tensors (B, *shape)."""
        *earlier, merged = encodings
        for adapter, encoding in zip(self.adapters, earlier, strict=True):
            merged = merged + adapter(encoding)
        return merged


class MLPHidden(MLP):
    """``ReLU(f(B) + S)``: `mlp` as a hidden layer, for encodings from before the last activation.

    Each encoding between base and side has a network of its own: ``ReLU(f(B) + g1(P1) + ... + S)``. The
    original code's MLPHidden raises an error; this is the formula that it documents.
    """

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape), not negative, from ``count`` tensors (B, *shape)."""
        return super().forward(encodings).relu()


class MLP2(Merger):
    """``f(B) + g(S)`` with a two-layer network for each encoding; the merger of the original iCIFAR demo."""

    Config = MLPOptions

    def __init__(self, config: MLPOptions, shape: Shape, count: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(shape) for _ in range(count))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from ``count`` tensors (B, *shape)."""
        adapted = [adapter(encoding) for adapter, encoding in zip(self.adapters, encodings, strict=True)]
        return torch.stack(adapted).sum(0)


class ResMLP(MLP2):
    """``f(B) + S + g(S)`` with two-layer networks f and g: `mlp2` with a residual side (ResMLP2).

    Each encoding between base and side has a network of its own and no residual: ``f(B) + g1(P1) + ... + S +
    g(S)``.
    """

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from ``count`` tensors (B, *shape)."""
        merged = encodings[-1]
        for adapter, encoding in zip(self.adapters, encodings, strict=True):
            merged = merged + adapter(encoding)
        return merged


class Adapter(nn.Module):
    """Two layers that keep the shape of an encoding.

    (C,) and (L, C): linear, BatchNorm, ReLU, linear, at every position. (C, H, W): a learned scale,
    initially 0.9, 1 x 1 convolution, GroupNorm (2 groups), ReLU, 1 x 1 convolution. These are the "MLP
    adapter" of the original iCIFAR (8,448 parameters for (64,)) and Taskonomy (145 for (8, 16, 16))
    experiments.
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
            self.first = nn.Linear(channels, channels)
            self.norm = nn.BatchNorm1d(channels)
            self.second = nn.Linear(channels, channels)
        self.activation = nn.ReLU()

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, *shape) to (B, *shape)."""
        if self.rank == 3:
            adapted: Tensor = self.second(self.activation(self.norm(self.first(self.scale * encoding))))
            return adapted
        rows = encoding.reshape(-1, encoding.shape[-1])
        adapted = self.second(self.activation(self.norm(self.first(rows))))
        return adapted.reshape(encoding.shape)
