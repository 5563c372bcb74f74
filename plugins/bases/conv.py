"""Three small convolutions, for small or symbolic images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    Features,
    FitError,
    InputShapes,
    at_least,
    flat_size,
    flatten_inputs,
    init_orthogonal,
    load_weights,
    option,
)

CHANNELS = (16, 32, 64)


class Conv(Base):
    """Three 3 x 3 convolutions of stride 2 and a linear layer on the flattened map, each with ReLU.

    The convolutions have 16, 32 and 64 channels. Input ``image`` (B, C, H, W) of any size, such as
    MiniGrid's 7 x 7 symbols; other inputs are flattened and concatenated with the flattened map. Encoding
    (B, width). Taps: the output of each convolution. Weights for ``image`` (3, 28, 28) and width 64 come
    with the package, trained by imitation of BabyAI's bot (see ``weights/conv-babyai.md``).

    Raises:
        FitError: the env has no ``image`` (C, H, W).
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of Conv."""

        width: int = option(64, "length of the encoding", at_least(1))
        weights: str = option(
            "none",
            "'none' (random), 'packaged' (trained on BabyAI levels, 28 x 28 pixels), or a .safetensors or "
            ".pth file",
        )

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3:
            raise FitError(f"base 'conv' needs an input 'image' of shape (C, H, W); got {dict(inputs)}")
        self.convolutions = nn.ModuleList()
        taps, (c_in, height, width) = [], shape
        for c_out in CHANNELS:
            self.convolutions.append(init_orthogonal(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)))
            c_in, height, width = c_out, (height + 1) // 2, (width + 1) // 2
            taps.append((c_out, height, width))
        flattened = math.prod(taps[-1]) + flat_size(inputs, exclude="image")
        self.linear = init_orthogonal(nn.Linear(flattened, config.width))
        self.shape, self.tap_shapes = (config.width,), tuple(taps)
        packaged = Path(__file__).parent / "weights" / "conv-babyai.safetensors"
        load_weights(self, config.weights, owner="base 'conv'", packaged=packaged)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, width), and the output of each convolution."""
        current, taps = inputs["image"], []
        for convolution in self.convolutions:
            current = convolution(current).relu()
            taps.append(current)
        vectors = [current.flatten(1)]
        if len(inputs) > 1:
            vectors.append(flatten_inputs(inputs, exclude="image"))
        return Features(self.linear(torch.cat(vectors, 1)).relu(), tuple(taps))
