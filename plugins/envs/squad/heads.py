"""The head of question answering."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sidetune_core.api import FitError, Shape


def make_span_head(shape: Shape, max_length: int) -> nn.Module:
    """The head on encodings (B, *shape) of windows of up to `max_length` tokens.

    Raises:
        FitError: the encodings are no sequences of this length.
    """
    if len(shape) != 2 or shape[0] != max_length:
        raise FitError(
            f"env 'squad' needs encodings of shape ({max_length}, C), such "
            f"as those of base 'minilm'; the encoding here has shape {tuple(shape)}"
        )
    return SpanHead(shape[1])


class SpanHead(nn.Module):
    """Start and end logits of each position, in float32: the best candidates are close to each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, l, C) to (B, l, 2)."""
        with torch.autocast(encoding.device.type, enabled=False):
            logits: Tensor = self.linear(encoding.float())
        return logits
