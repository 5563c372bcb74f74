"""Merging that begins at the base's encoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Merger, Shape


class FromBase(Merger):
    """``B + g (M - B)`` or ``B + P (M - B)`` for a merger M, with a learned g or P that is 0 at first.

    g is a gate for each channel (ReZero: Bachlechner et al., UAI 2021), P a linear map of the channels, the
    same at each position (zero convolution: Zhang et al., ControlNet, ICCV 2023). Before the first step the
    result is the base's encoding bit for bit, whatever merger and side are; with ``g = 1`` or the identity
    P it is the merger's. g and P have a gradient from the first step on, unless M is B then, and all else
    from the second. P has a weight for each pair of channels, so that its first steps add far more of the
    side than those of g.

    Args:
        merger: M.
        shape: of the encodings.
        linear: P rather than g.
    """

    def __init__(self, merger: nn.Module, shape: Shape, linear: bool = False) -> None:
        super().__init__()
        self.merger = merger
        self.maps = len(shape) == 3
        channels = shape[0] if self.maps else shape[-1]
        if linear:
            self.projection = nn.Parameter(torch.zeros(channels, channels))
        else:
            self.gate = nn.Parameter(torch.zeros(channels))
        self.linear = linear

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from encodings (B, *shape), the base's first."""
        base = encodings[0]
        difference: Tensor = self.merger(encodings) - base
        if not self.linear:
            return base + (self.gate[:, None, None] if self.maps else self.gate) * difference
        if self.maps:
            return base + functional.conv2d(difference, self.projection[:, :, None, None])
        return base + functional.linear(difference, self.projection)

    def weights(self) -> dict[str, float]:
        """Those of the merger, and ``gate``, the mean of g, or ``projection``, the Frobenius norm of P."""
        merger = self.merger
        assert isinstance(merger, Merger)
        if self.linear:
            return {**merger.weights(), "projection": float(self.projection.detach().norm())}
        return {**merger.weights(), "gate": float(self.gate.detach().mean())}
