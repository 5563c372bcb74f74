"""Three small convolutions, for images of a few pixels or symbols."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, Features, FitError, InputShapes, at_least, load_weights, option

from ._flat import flat, orthogonal, width

CHANNELS = (16, 32, 64)


class Conv(Base):
    """Three 3 x 3 convolutions of stride 2, with 16, 32 and 64 channels, and a linear layer on the flattened map, with ReLU.

    Input ``image`` (B, C, H, W) of any size, such as MiniGrid's 7 x 7 symbols; other inputs are flattened and join in front of the linear
    layer. Encoding (B, width). Taps: what each convolution gives. Weights for ``image`` (3, 28, 28) and width 64 come with the package,
    trained by imitation of BabyAI's bot (see ``weights/conv-babyai.md``).

    Raises:
        FitError: there is no ``image`` (C, H, W).
        WeightsError: weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of Conv."""

        width: int = option(64, "length of the encoding", at_least(1))
        weights: str = option(
            "none",
            "'none' (random), 'packaged' (of BabyAI's levels in 28 x 28 pixels), or a .safetensors or .pth file",
        )

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3:
            raise FitError(f"base 'conv' needs an input 'image' of shape (C, H, W); got {dict(inputs)}")
        self.convolutions = nn.ModuleList()
        taps, (channels, height, width_) = [], shape
        for count in CHANNELS:
            self.convolutions.append(orthogonal(nn.Conv2d(channels, count, 3, stride=2, padding=1)))
            channels, height, width_ = count, (height + 1) // 2, (width_ + 1) // 2
            taps.append((channels, height, width_))
        self.linear = orthogonal(
            nn.Linear(math.prod(taps[-1]) + width(inputs, besides="image"), config.width)
        )
        self.shape, self.tap_shapes = (config.width,), tuple(taps)
        packaged = Path(__file__).parent / "weights" / "conv-babyai.safetensors"
        load_weights(self, config.weights, owner="base 'conv'", packaged=packaged)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, width), and what each convolution gives."""
        current, taps = inputs["image"], []
        for convolution in self.convolutions:
            current = convolution(current).relu()
            taps.append(current)
        rows = [current.flatten(1), *([flat(inputs, besides="image")] if len(inputs) > 1 else [])]
        return Features(self.linear(torch.cat(rows, 1)).relu(), tuple(taps))
