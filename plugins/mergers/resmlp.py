"""MLP adapters on base and side, and the side itself."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape

from ._mlp import Adapter


class ResMLP(Merger):
    """``f(B) + S + g(S)`` with two-layer networks f and g: `mlp2` with a residual side, the original's ResMLP2.

    Further encodings before the side's get a network each, and no residual: ``f(B) + g1(P1) + ... + S + g(S)``.
    """

    @attrs.frozen
    class Config:
        """The adapters have no options."""

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(shape) for _ in range(count))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) out of ``count`` tensors (B, *shape)."""
        merged = encodings[-1]
        for adapter, encoding in zip(self.adapters, encodings, strict=True):
            merged = merged + adapter(encoding)
        return merged
