"""The encoding of a network that may have a side."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def merged(
    inputs: Mapping[str, Tensor],
    base: nn.Module,
    side: nn.Module | None = None,
    merger: nn.Module | None = None,
) -> Tensor:
    """``M(B(x), S(x))``, or ``B(x)`` where there is no side: (B, *base.shape)."""
    features = base(inputs)
    encoding: Tensor = features.encoding
    if side is not None and merger is not None:
        encoding = merger([encoding, side(inputs, features)])
    return encoding
