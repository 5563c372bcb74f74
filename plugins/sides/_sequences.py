"""What sides on sequences share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import FitError


class Layer(nn.Module):
    """A pre-norm transformer layer (B, L, width), with a feed-forward part of four times the width.

    PyTorch's own layer has a fused path in evaluation that fails under bf16 autocast where operations are watched, as certificates do.

    Args:
        width: channels.
        heads: of attention.
        dropout: share of what attention and feed-forward part give that is dropped in training.
        owner: for the message, such as ``side 'encoder'``.

    Raises:
        FitError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, dropout: float, owner: str) -> None:
        super().__init__()
        if width % heads:
            raise FitError(f"{owner}: {heads} heads cannot share a width of {width}; choose a multiple")
        self.heads = heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.gather = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, current: Tensor, real: Tensor) -> Tensor:
        """(B, L, width) to the same; positions attend to those where `real` (B, L) holds."""
        batch, length, width = current.shape
        parts = self.project(self.attention_norm(current)).view(
            batch, length, 3, self.heads, width // self.heads
        )
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, L, width / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
        current = current + self.drop(self.gather(mixed.transpose(1, 2).reshape(batch, length, width)))
        result: Tensor = current + self.drop(self.feed(self.feed_norm(current)))
        return result


def real_positions(mask: Tensor) -> Tensor:
    """Where ``mask`` (B, L) is not 0, as bool; all of an example that is nothing but padding, for attention to nothing is no number."""
    real = mask != 0
    return real | ~real.any(1, keepdim=True)


def positions(length: int, width: int) -> nn.Parameter:
    """Learned embeddings of positions, (length, width)."""
    return nn.Parameter(0.02 * torch.randn(length, width))
