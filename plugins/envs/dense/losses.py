"""Losses of dense tasks: one value per example, over the valid pixels."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

Kind = Literal["l1", "l2", "cross-entropy", "soft cross-entropy"]


def dense_loss(kind: Kind, output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """(B,): the mean over channels and over the valid pixels of each example; 0 for an example without valid
    pixels.

    Args:
        kind: of loss.
        output: (B, C, H, W), regression values or class logits; (B, C) for logits of a whole image.
        target: for l1 and l2 (B, C, H, W); for cross-entropy (B, H, W) or (B,) labels in [0, C); for soft
            cross-entropy class probabilities of the output's shape.
        valid: (B, 1, H, W), 1 where the target is valid and 0 elsewhere; None if it is valid everywhere.
            Invalid targets may have any finite value.
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
