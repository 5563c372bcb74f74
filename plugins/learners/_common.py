"""An option and a computation that most learners here share."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor, nn

from sidetune_core.api import option


@attrs.frozen
class NormOptions:
    """Options of a learner."""

    norm: bool = option(
        True, "normalise the merged encoding before the head (8 groups of channels, no parameters)"
    )


def merged_encoding(
    inputs: Mapping[str, Tensor],
    base: nn.Module,
    side: nn.Module | None = None,
    merger: nn.Module | None = None,
) -> Tensor:
    """``M(B(x), S(x))``, or ``B(x)`` without a side: (B, *base.shape)."""
    features = base(inputs)
    encoding: Tensor = features.encoding
    if side is not None and merger is not None:
        encoding = merger([encoding, side(inputs, features)])
    return encoding
