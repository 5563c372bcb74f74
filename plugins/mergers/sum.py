"""The sum of base and side."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Merger, Shape


class Sum(Merger):
    """``B + S``; the sum of all encodings."""

    @attrs.frozen
    class Config:
        """Options of the sum: none."""

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from ``count`` tensors (B, *shape)."""
        return torch.stack(list(encodings)).sum(0)
