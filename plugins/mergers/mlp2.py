"""MLP adapters on base and side."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape

from ._mlp import Adapter


class MLP2(Merger):
    """``f(B) + g(S)`` with a two-layer network for each encoding; the merger of the original iCIFAR demo."""

    @attrs.frozen
    class Config:
        """The adapters have no options."""

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(shape) for _ in range(count))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) out of ``count`` tensors (B, *shape)."""
        adapted = [adapter(encoding) for adapter, encoding in zip(self.adapters, encodings, strict=True)]
        return torch.stack(adapted).sum(0)
