"""The plain sum of base and side."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Merger, Shape


@attrs.frozen
class Config:
    """The sum has no options."""


class Sum(Merger):
    """``B + S``, and all further encodings."""

    Config = Config

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(encodings)).sum(0)
