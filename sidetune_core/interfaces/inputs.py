"""What networks take and give: named inputs, and the features of a base.

Shapes leave the batch axis out: an encoding of shape ``(C,)``, ``(L, C)`` or ``(C, H, W)`` is a tensor ``(B, C)``, ``(B, L, C)`` or
``(B, C, H, W)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import attrs
from torch import Tensor

Shape = tuple[int, ...]
InputShapes = Mapping[str, Shape]


@attrs.frozen(eq=False)
class Inputs(Mapping[str, Tensor]):
    """A batch of inputs by name, such as ``image`` of shape (B, C, H, W).

    `ids` is (B,) int64, a stable number per example, where every tensor is a function of that example alone; None where it is not (an
    augmented image). It is what lets the core reuse a frozen base's outputs. A plain dict of tensors does as well wherever `Inputs` is
    taken.

    `lengths` is (B,) int64 for sequences that are padded at their end to the longest of the batch, and None for inputs of one size. Where
    it is given, every tensor is (B, l, ...) with l at most the L that is declared, so are encodings and taps of shape (L, C), which a
    base sets to zero where an example has ended.

    `window`, where it is set, says that ids number the frames of an endless film, of which only the latest `window` come again: what
    is remembered of a frame may be written over by what comes `window` frames later.
    """

    tensors: Mapping[str, Tensor]
    ids: Tensor | None = None
    lengths: Tensor | None = None
    window: int | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


class Features(NamedTuple):
    """What a base makes of an input."""

    encoding: Tensor
    """(B, *shape)"""
    taps: tuple[Tensor, ...] = ()
    """Intermediate activations, (B, *tap_shapes[k]), for lateral connections."""
