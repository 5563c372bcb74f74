"""Inputs and outputs of networks: named input tensors, and the features of a base.

Shapes leave out the batch axis: an encoding of shape ``(C,)``, ``(L, C)`` or ``(C, H, W)`` is a tensor
``(B, C)``, ``(B, L, C)`` or ``(B, C, H, W)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import attrs
from torch import Tensor

Shape = tuple[int, ...]
InputShapes = Mapping[str, Shape]


@attrs.frozen(eq=False)
class Inputs(Mapping[str, Tensor]):
    """A batch of input tensors by name, such as ``image`` of shape (B, C, H, W).

    Networks also accept a plain dict of tensors.
    """

    tensors: Mapping[str, Tensor]
    ids: Tensor | None = None
    """(B,) int64, a stable id of each example, if every tensor is a function of its example alone; otherwise
    None (augmented images). The core caches a frozen base's outputs by these ids."""
    lengths: Tensor | None = None
    """(B,) int64, lengths of sequences padded at their end to the longest of the batch; None for inputs of
    one size. With lengths, every tensor is (B, l, ...) with l at most the declared L, and so are encodings
    and taps of shape (L, C), which a base sets to zero after the end of an example."""
    window: int | None = None
    """If set, ids number the frames of an endless stream, of which only the latest `window` are used again: a
    cached frame may be overwritten `window` frames later."""
    task: str | None = None
    """Set by the core: the task that the ids belong to. The cache pairs ids with it (see
    `TaskStream.shared_ids`)."""

    context: Mapping[str, Tensor] = attrs.field(factory=dict)
    """(B, ...) by name: what only a head reads that has ``reads_context``, such as the state of a recurrent
    policy; no input of base and side."""

    def rows(self, index: slice | Tensor) -> Inputs:
        """The inputs of some examples: a slice, or numbers or a mask of them (B,)."""
        return attrs.evolve(
            self,
            tensors={name: value[index] for name, value in self.tensors.items()},
            ids=None if self.ids is None else self.ids[index],
            lengths=None if self.lengths is None else self.lengths[index],
            context={name: value[index] for name, value in self.context.items()},
        )

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@attrs.frozen
class ImageInput:
    """The images that a base was pretrained on."""

    size: int
    """Height and width in pixels."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_fraction: float = 1.0
    """The centre square that is cut out, as a fraction of the shorter side."""


class Features(NamedTuple):
    """The outputs of a base."""

    encoding: Tensor
    """(B, *shape)"""
    taps: tuple[Tensor, ...] = ()
    """Intermediate activations, (B, *tap_shapes[k]), for lateral connections."""
