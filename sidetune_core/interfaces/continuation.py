"""What a base computes after one of its taps, as a trainable copy.

Sides that continue from an activation of the base (a partial fine-tuning of a copy: Yosinski et al., NeurIPS
2014) get it from the base, which alone knows its layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import attrs
from torch import Tensor, nn

from sidetune_core.errors import FitError, shorten


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
    """A copy of what a base computes after a tap, with weights of its own.

    Its layers have the names of the base's: the keys of its state dict are some of those of the base.
    """

    @abstractmethod
    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The encoding (B, *base.shape) from the tap (B, *base.tap_shapes[k]).

        `inputs` are those of the base, such as the mask of a sequence; layers after a tap of images read none
        of them.
        """


def select_blocks(
    blocks: Sequence[Block], taps: int, tap: int, keep: Collection[int] | None
) -> frozenset[int]:
    """The numbers of the blocks of a continuation, for `Continuable.continued`.

    Args:
        blocks: all blocks of the base.
        taps: number of its taps.
        tap: index of the tap.
        keep: numbers of the blocks to keep; None for all that follow the tap.

    Raises:
        FitError: there is no such tap, `keep` leaves out a block that is not optional, or names one that does
            not follow the tap.
    """
    if not 0 <= tap < taps:
        raise FitError(
            f"the base has no tap {tap}; its taps are 0 to {taps - 1}"
            if taps
            else "the base has no taps to continue from"
        )
    following = {number for number, block in enumerate(blocks) if block.after >= tap}
    if keep is None:
        return frozenset(following)
    kept = frozenset(keep)
    if wrong := sorted(kept - following):
        legal = f"these are {_range(following)}" if following else "there are none"
        raise FitError(f"{_numbered(wrong)} not after tap {tap} of the base; {legal}")
    needed = [number for number in sorted(following - kept) if not blocks[number].optional]
    if needed:
        names = shorten(blocks[number].name for number in needed)
        raise FitError(
            f"{_numbered(needed)} needed ({names}): input and output have different shapes; "
            f"keep {shorten(needed, len(needed))} too"
        )
    return kept


def _numbered(numbers: Sequence[int]) -> str:
    return f"block {numbers[0]} is" if len(numbers) == 1 else f"blocks {shorten(numbers)} are"


def _range(numbers: Collection[int]) -> str:
    first, last = min(numbers), max(numbers)
    return f"{first} to {last}" if first < last else f"{first}"
