"""Losses of dense tasks, one number for each example, over the pixels that are valid."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

Kind = Literal["l1", "l2", "cross-entropy", "soft cross-entropy"]


def dense_loss(kind: Kind, output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """(B,): the mean over the valid pixels of each example, and over channels; 0 for an example that has none.

    Args:
        kind: of loss.
        output: (B, C, H, W) numbers, or scores of classes; (B, C) for scores of a whole image.
        target: for l1 and l2 (B, C, H, W); for cross-entropy (B, H, W) or (B,) labels in [0, C); for soft cross-entropy the chances of
            the classes, of the output's shape.
        valid: (B, 1, H, W), 1 where the target is to be trusted and 0 elsewhere; None for everywhere. What the target holds elsewhere
            does not matter, if it is finite.
    """
    if kind == "l1":
        pixels = (output.float() - target).abs().mean(1)
    elif kind == "l2":
        pixels = (output.float() - target).square().mean(1)
    elif kind == "cross-entropy":
        pixels = functional.cross_entropy(output.float(), target, reduction="none")
    else:
        pixels = -(target * functional.log_softmax(output.float(), 1)).sum(1)
    if valid is None:
        return pixels.flatten(1).mean(1) if pixels.ndim > 1 else pixels
    weight = valid[:, 0].to(pixels.dtype)
    return (weight * pixels).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)
