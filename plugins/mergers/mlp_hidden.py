"""The MLP adapter on the base, in front of an activation."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape

from ._mlp import Adapter


class MLPHidden(Merger):
    """``ReLU(f(B) + S)`` with a two-layer network f: `mlp` as a hidden layer, for encodings from before their networks' last activation.

    Further encodings before the side's get a network each: ``ReLU(f(B) + g1(P1) + ... + S)``. The original's MLPHidden could not run;
    this is what it stated.
    """

    @attrs.frozen
    class Config:
        """The adapter has no options."""

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(shape) for _ in range(count - 1))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) out of ``count`` tensors (B, *shape); 0 or more."""
        *earlier, merged = encodings
        for adapter, encoding in zip(self.adapters, earlier, strict=True):
            merged = merged + adapter(encoding)
        return merged.relu()
