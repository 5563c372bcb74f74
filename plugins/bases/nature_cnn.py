"""The convolutional network of DQN on Atari, known as Nature CNN."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    Block,
    Features,
    FitError,
    InputShapes,
    flat_size,
    init_orthogonal,
    load_weights,
    option,
)

from .conv import ConvolutionsAfterTap, continue_convolutions, encode, layer_blocks

LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, kernel and stride of each convolution."""
MIN_SIZE = 36
"""Smallest height and width of an image, in pixels."""
WIDTH = 512


class NatureCNN(Base):
    """Three convolutions and a linear layer, with ReLU (Mnih et al., Nature 2015, methods).

    Input ``image`` (B, C, H, W) of at least 36 x 36 pixels, 84 x 84 in the paper; other inputs are flattened
    and concatenated with the flattened map. Encoding (B, 512). Taps: the output of each convolution.

    Raises:
        FitError: the env has no ``image`` (C, H, W) of at least 36 x 36 pixels.
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of NatureCNN."""

        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or min(shape[1:]) < MIN_SIZE:
            raise FitError(
                f"base 'nature-cnn' needs an input 'image' of shape (C, H, W), H and W at least {MIN_SIZE}; "
                f"got {dict(inputs)}"
            )
        self.convolutions = nn.ModuleList()
        taps, current = [], torch.zeros(1, *shape)
        for channels, kernel, stride in LAYERS:
            convolution = init_orthogonal(nn.Conv2d(current.shape[1], channels, kernel, stride))
            self.convolutions.append(convolution)
            with torch.no_grad():
                current = convolution(current)
            taps.append(tuple(current.shape[1:]))
        flattened = current[0].numel() + flat_size(inputs, exclude="image")
        self.linear = init_orthogonal(nn.Linear(flattened, WIDTH))
        self.shape, self.tap_shapes = (WIDTH,), tuple(taps)
        load_weights(self, config.weights, owner="base 'nature-cnn'")

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, 512), and the output of each convolution."""
        return encode(self.convolutions, self.linear, inputs["image"], inputs)

    def blocks(self) -> tuple[Block, ...]:
        """The layers, each of which changes the shape."""
        return layer_blocks(self)

    def continued(self, tap: int, keep: Collection[int] | None = None) -> ConvolutionsAfterTap:
        """See `Continuable`."""
        return continue_convolutions(self, self.convolutions, self.linear, tap, keep)
