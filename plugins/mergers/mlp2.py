"""MLP adapters on base and side."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape

from ._mlp import Adapter


@attrs.frozen
class Config:
    """The adapters have no options."""


class MLP2(Merger):
    """``f(B) + g(S)`` with a two-layer network for each encoding; the merger of the original iCIFAR demo."""

    Config = Config

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(shape) for _ in range(count))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        merged, *rest = (adapter(encoding) for adapter, encoding in zip(self.adapters, encodings, strict=True))
        for encoding in rest:
            merged = merged + encoding
        return merged
