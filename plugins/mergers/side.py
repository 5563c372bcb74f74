"""The side alone."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Merger, Shape


class SideAlone(Merger):
    """``S``: the side's encoding replaces the base's; the mean of all sides where there are several.

    It equals merger ``alpha`` in mode fixed with a start of 0. Side ``fork`` can do without the base's
    encoding, for it continues from the base's activations.
    """

    @attrs.frozen
    class Config:
        """Options of the side alone: none."""

    is_mean = True

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from ``count`` tensors (B, *shape)."""
        _, *sides = encodings
        return sides[0] if len(sides) == 1 else torch.stack(sides).mean(0)
