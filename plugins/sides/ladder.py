"""Ladder: a side that climbs beside the base and takes something from it at every rung."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import attrs
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Base, Features, FitError, InputShapes, Shape, Side, at_least, option


class Ladder(Side):
    """A narrow convolutional side on the base's intermediate activations, for bases with taps (C, H, W).

    Side-tuning sees the base's last encoding only; a ladder (Sung et al., LST, NeurIPS 2022) also sees what the base computed on the way,
    and still never sends a gradient through it. Of the taps of one size the deepest is used. The first rung is a 1 x 1 layer on the largest
    tap, halved by averaging; each further rung is a 3 x 3 convolution of the rung before, brought to the size of the next tap, plus a 1 x 1
    layer on that tap; the last is a 3 x 3 convolution to the channels of the base's encoding. BatchNorm and ReLU follow each. Widths are
    `width` times 1, 1.5, 2, …: beside a CIFAR ResNet about 85,000 parameters at 32. The input itself is not read.

    Encoding: (B, C), the mean over the last map, or (B, C, H, W).

    Raises:
        FitError: the base has no taps (C, H, W), or encodes as a sequence.
    """

    @attrs.frozen
    class Config:
        """Options of the ladder."""

        width: int = option(32, "channels of the first rung; later ones are wider", at_least(1))

    needs_taps = True

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        self.shape = tuple(base.shape)
        maps = {
            shape[1:]: place for place, shape in enumerate(base.tap_shapes) if len(shape) == 3
        }  # the deepest of each size
        if not maps or len(self.shape) == 2:
            raise FitError(
                f"side 'ladder' needs a base with taps (C, H, W) and an encoding (C,) or (C, H, W); "
                f"this one has taps {[tuple(shape) for shape in base.tap_shapes]} and encodes as {self.shape}"
            )
        self.places = list(maps.values())
        channels = [base.tap_shapes[place][0] for place in self.places]
        widths = [config.width * (2 + rung) // 2 for rung in range(len(self.places))]
        first, *sizes = (_halved(size) if rung == 0 else size for rung, size in enumerate(maps))
        self.sizes: list[Shape] = [first, *(tuple(map(min, zip(first, size, strict=True))) for size in sizes)]
        self.adapters = nn.ModuleList(
            nn.Conv2d(c, width, 1, bias=False) for c, width in zip(channels, widths, strict=True)
        )
        self.steps = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.last = nn.Sequential(
            nn.Conv2d(widths[-1], self.shape[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(self.shape[0]),
            nn.ReLU(),
        )

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The encoding (B, *base.shape), out of the base's taps alone."""
        taps = [
            self._to_size(features.taps[place], size)
            for place, size in zip(self.places, self.sizes, strict=True)
        ]
        rung = functional.relu(self.norms[0](self.adapters[0](taps[0])))
        for step, adapter, norm, tap in zip(
            self.steps, self.adapters[1:], self.norms[1:], taps[1:], strict=True
        ):
            climbed = self._to_size(step(rung), tuple(tap.shape[2:]))
            rung = functional.relu(norm(climbed + adapter(tap)))
        top: Tensor = self.last(rung)
        return top.mean((2, 3)) if len(self.shape) == 1 else self._to_size(top, self.shape[1:])

    @staticmethod
    def _to_size(maps: Tensor, size: Shape) -> Tensor:
        """(B, C, H, W) to (B, C, *size), by averaging or repetition."""
        if tuple(maps.shape[2:]) == tuple(size):
            return maps
        if maps.shape[2] >= size[0] and maps.shape[3] >= size[1]:
            averaged: Tensor = functional.adaptive_avg_pool2d(maps, (size[0], size[1]))
            return averaged
        return functional.interpolate(maps, size=list(size), mode="nearest")


def _halved(size: Shape) -> Shape:
    return tuple(max(1, length // 2) for length in size)
