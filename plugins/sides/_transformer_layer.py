"""A transformer layer and its masks, for sides on sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import FitError


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer (B, L, width) with a feed-forward block of four times the width.

    PyTorch's own layer has a fused path in eval mode that fails under bf16 autocast with a dispatch mode,
    which certificates use.

    Args:
        width: channels.
        heads: number of attention heads.
        dropout: probability of dropping an output of attention or feed-forward block in training.
        owner: for the message, such as ``side 'encoder'``.

    Raises:
        FitError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, dropout: float, owner: str) -> None:
        super().__init__()
        if width % heads:
            raise FitError(f"{owner}: width {width} is not a multiple of heads {heads}; choose a multiple")
        self.heads = heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.gather = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """(B, L, width) to (B, L, width); positions attend to those where `attended` (B, L) is true."""
        batch, length, width = hidden.shape
        projected = self.project(self.attention_norm(hidden))
        projected = projected.view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each (B, heads, L, width / heads)
        mask = attended[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = hidden + self.drop(self.gather(mixed.transpose(1, 2).reshape(batch, length, width)))
        output: Tensor = hidden + self.drop(self.feed(self.feed_norm(hidden)))
        return output


def attended_positions(mask: Tensor) -> Tensor:
    """Where ``mask`` (B, L) is not 0, as bool; everywhere in an example of padding, to avoid NaN."""
    attended = mask != 0
    return attended | ~attended.any(1, keepdim=True)


def position_embeddings(length: int, width: int) -> nn.Parameter:
    """Learned position embeddings, (length, width)."""
    return nn.Parameter(0.02 * torch.randn(length, width))
