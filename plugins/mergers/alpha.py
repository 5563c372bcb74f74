"""The learned blend of base and side."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, Shape


class Alpha(Merger):
    """``w B + (1 - w) S`` with ``w = sigmoid(a)`` and a learned scalar a, at first 0 (Zhang et al., ECCV 2020, section 3.3).

    With more than two encodings the weights are a softmax of one learned scalar each, at first equal; for two of them that is the
    same family.
    """

    @attrs.frozen
    class Config:
        """The blend has no options."""

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(() if count == 2 else (count,)))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) out of ``count`` tensors (B, *shape)."""
        return torch.stack([weight * encoding for weight, encoding in zip(self._weights(), encodings, strict=True)]).sum(0)

    def weights(self) -> dict[str, float]:
        """``base``: the weight on the base, in (0, 1)."""
        return {"base": float(self._weights()[0].detach())}

    def _weights(self) -> Tensor:
        if self.alpha.ndim:
            return self.alpha.softmax(0)
        weight = self.alpha.sigmoid()
        return torch.stack([weight, 1 - weight])
