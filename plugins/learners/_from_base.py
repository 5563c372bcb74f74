"""Merging that begins at the base's encoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape


class FromBase(Merger):
    """``B + g (M - B)`` for a merger M, with a learned gate g for each channel that is 0 at first.

    Before the first step the result is the base's encoding bit for bit, whatever merger and side are; at
    ``g = 1`` it is the merger's. The gate has a gradient from the first step on, unless M is B then, and all
    else from the second (ReZero: Bachlechner et al., UAI 2021).

    Args:
        merger: M.
        shape: of the encodings.
    """

    def __init__(self, merger: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.merger = merger
        self.maps = len(shape) == 3
        self.gate = nn.Parameter(torch.zeros(shape[0] if self.maps else shape[-1]))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from encodings (B, *shape), the base's first."""
        base, gate = encodings[0], self.gate[:, None, None] if self.maps else self.gate
        merged: Tensor = base + gate * (self.merger(encodings) - base)
        return merged

    def weights(self) -> dict[str, float]:
        """Those of the merger, and ``gate``, the mean of g."""
        merger = self.merger
        assert isinstance(merger, Merger)
        return {**merger.weights(), "gate": float(self.gate.detach().mean())}
