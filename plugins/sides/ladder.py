"""Ladder side-tuning: a convolutional side on the taps of the base."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import attrs
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Base, Features, FitError, InputShapes, Shape, Side, at_least, option


class Ladder(Side):
    """A narrow convolutional side on the base's intermediate activations, for bases with taps (C, H, W).

    Side-tuning merges with the base's last encoding only; a ladder (Sung et al., LST, NeurIPS 2022) also
    reads intermediate activations, still without backpropagation through the base. Of the taps of one size
    the deepest is used. The first rung is a 1 x 1 layer on the largest tap, average-pooled to half its size.
    Each further rung is a 3 x 3 convolution of the previous rung, resized to the next tap, plus a 1 x 1
    layer on that tap. The last layer is a 3 x 3 convolution to the channels of the base's encoding.
    BatchNorm and ReLU follow each. Widths are `width` times 1, 1.5, 2, …: about 85,000 parameters at width
    32 with a CIFAR ResNet. The inputs are not read.

    Encoding: (B, C), the mean over the last map, or (B, C, H, W).

    Raises:
        FitError: the base has no taps (C, H, W), or encodes as a sequence.
    """

    @attrs.frozen
    class Config:
        """Options of the ladder."""

        width: int = option(32, "channels of the first rung; later rungs are wider", at_least(1))

    needs_taps = True
    tap_indices: tuple[int, ...]

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        self.shape = tuple(base.shape)
        deepest = {
            shape[1:]: index for index, shape in enumerate(base.tap_shapes) if len(shape) == 3
        }  # by size
        if not deepest or len(self.shape) == 2:
            raise FitError(
                f"side 'ladder' needs a base with taps (C, H, W) and an encoding (C,) or (C, H, W); "
                f"got taps {[tuple(shape) for shape in base.tap_shapes]} and encoding {self.shape}"
            )
        self.tap_indices = tuple(deepest.values())
        channels = [base.tap_shapes[index][0] for index in self.tap_indices]
        widths = [config.width * (2 + rung) // 2 for rung in range(len(self.tap_indices))]
        largest, *smaller = deepest
        first = _halved(largest)
        self.sizes: list[Shape] = [first, *(tuple(map(min, first, size)) for size in smaller)]
        self.adapters = nn.ModuleList(
            nn.Conv2d(c_in, width, 1, bias=False) for c_in, width in zip(channels, widths, strict=True)
        )
        self.steps = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 3, padding=1, bias=False) for c_in, c_out in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.last = nn.Sequential(
            nn.Conv2d(widths[-1], self.shape[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(self.shape[0]),
            nn.ReLU(),
        )

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The encoding (B, *base.shape), computed from the base's taps."""
        taps = [
            _resize(features.taps[index], size)
            for index, size in zip(self.tap_indices, self.sizes, strict=True)
        ]
        rung = functional.relu(self.norms[0](self.adapters[0](taps[0])))
        layers = zip(self.steps, self.adapters[1:], self.norms[1:], taps[1:], strict=True)
        for step, adapter, norm, tap in layers:
            resized = _resize(step(rung), tuple(tap.shape[2:]))
            rung = functional.relu(norm(resized + adapter(tap)))
        last: Tensor = self.last(rung)
        return last.mean((2, 3)) if len(self.shape) == 1 else _resize(last, self.shape[1:])


def _resize(maps: Tensor, size: Shape) -> Tensor:
    """(B, C, H, W) to (B, C, *size), by average pooling or nearest-neighbour interpolation."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    if maps.shape[2] >= size[0] and maps.shape[3] >= size[1]:
        pooled: Tensor = functional.adaptive_avg_pool2d(maps, (size[0], size[1]))
        return pooled
    return functional.interpolate(maps, size=list(size), mode="nearest")


def _halved(size: Shape) -> Shape:
    return tuple(max(1, length // 2) for length in size)
