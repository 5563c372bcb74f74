"""The MLP adapter on the base."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape

from ._mlp import Adapter


class MLP(Merger):
    """``f(B) + S`` with a two-layer network f; further encodings before the side's get a network each: ``f(B) + g1(P1) + ... + S``."""

    @attrs.frozen
    class Config:
        """The adapter has no options."""

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(shape) for _ in range(count - 1))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) out of ``count`` tensors (B, *shape)."""
        *earlier, merged = encodings
        for adapter, encoding in zip(self.adapters, earlier, strict=True):
            merged = merged + adapter(encoding)
        return merged
