"""What a base computes after one of its taps, as a trainable copy.

Sides that continue from an activation of the base (a partial fine-tuning of a copy: Yosinski et al., NeurIPS
2014) get it from the base, which alone knows its layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import attrs
from torch import Tensor, nn


@attrs.frozen
class Block:
    """A part of a base that turns one activation into the next."""

    name: str
    """As in the base's state dict, such as ``layer3.0``."""
    after: int
    """Index of the last tap at or before its input; -1 if it lies before the first tap."""
    optional: bool
    """Whether the rest can be computed without it: its input and output have one shape, as in a residual
    block of stride 1 or a layer of a transformer."""


class Continuation(nn.Module, ABC):
    """A copy of what a base computes after a tap, with weights of its own."""

    @abstractmethod
    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The encoding (B, *base.shape) from the tap (B, *base.tap_shapes[k]).

        `inputs` are those of the base, such as the mask of a sequence; layers after a tap of images read none
        of them.
        """
