"""The product of base and side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Merger, Shape, option


class Product(Merger):
    """The product of all encodings: of their values, or of the distributions that they parameterise.

    ``elementwise``: ``B * S``. The original code calls this product of experts; nothing is normalised, and a
    0 in one encoding is a 0 in the product.

    ``log-space``: ``log_softmax(B) + log_softmax(S)`` over the channels of each position, the product of
    experts of Hinton (Neural Computation, 2002). Encodings are interpreted as unnormalised
    log-probabilities, and a softmax over the channels of the result is the normalised product of their
    distributions.
    """

    @attrs.frozen
    class Config:
        """Options of the product merger."""

        form: Literal["elementwise", "log-space"] = option(
            "elementwise",
            "elementwise: multiply values; log-space: add log-softmaxes over channels (product of experts)",
        )

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        self.form = config.form
        self.channel_axis = 1 if len(shape) == 3 else -1

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from ``count`` tensors (B, *shape)."""
        if self.form == "log-space":
            return torch.stack([encoding.log_softmax(self.channel_axis) for encoding in encodings]).sum(0)
        return torch.stack(list(encodings)).prod(0)
