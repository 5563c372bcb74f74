"""Three small convolutions, for small or symbolic images."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    Block,
    Continuation,
    Features,
    FitError,
    InputShapes,
    at_least,
    flat_size,
    flatten_inputs,
    init_orthogonal,
    load_weights,
    option,
    select_blocks,
)

from ._continuation import as_trainable, copy_without

CHANNELS = (16, 32, 64)

PACKAGED = Path(__file__).parent / "weights" / "conv-babyai.safetensors"
"""Trained by imitation of BabyAI's bot, see ``weights/conv-babyai.md``."""


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
        load_weights(self, config.weights, owner="base 'conv'", packaged=PACKAGED)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, width), and the output of each convolution."""
        return encode(self.convolutions, self.linear, inputs["image"], inputs)

    def blocks(self) -> tuple[Block, ...]:
        """The layers, each of which changes the shape."""
        return layer_blocks(self)

    def continued(self, tap: int, keep: Collection[int] | None = None) -> ConvolutionsAfterTap:
        """See `Continuable`."""
        return continue_convolutions(self, self.convolutions, self.linear, tap, keep)


def encode(
    convolutions: nn.ModuleList, linear: nn.Module, image: Tensor, inputs: Mapping[str, Tensor]
) -> Features:
    """The encoding (B, width) of an image or a map, and the output of each convolution; `inputs` other than
    ``image`` are concatenated with the last map."""
    current, taps = image, []
    for convolution in convolutions:
        current = convolution(current).relu()
        taps.append(current)
    vectors = [current.flatten(1)]
    if len(inputs) > 1:
        vectors.append(flatten_inputs(inputs, exclude="image"))
    return Features(linear(torch.cat(vectors, 1)).relu(), tuple(taps))


class ConvolutionsAfterTap(Continuation):
    """Convolutions and the linear layer; a tap and inputs other than ``image`` to (B, width)."""

    def __init__(self, convolutions: nn.ModuleList, linear: nn.Module) -> None:
        super().__init__()
        self.convolutions, self.linear = convolutions, linear

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return encode(self.convolutions, self.linear, tap, inputs).encoding


def layer_blocks(base: Base) -> tuple[Block, ...]:
    """The layers of a base whose taps are the outputs of its convolutions."""
    names = [*(f"convolutions.{index}" for index in range(len(base.tap_shapes))), "linear"]
    return tuple(Block(name, index - 1, optional=False) for index, name in enumerate(names))


def continue_convolutions(
    base: Base, convolutions: nn.ModuleList, linear: nn.Module, tap: int, keep: Collection[int] | None
) -> ConvolutionsAfterTap:
    """What follows a convolution of a base.

    Raises:
        FitError: see `Continuable.continued`.
    """
    select_blocks(layer_blocks(base), len(base.tap_shapes), tap, keep)
    remaining = copy_without(convolutions, [*convolutions][: tap + 1])
    return as_trainable(ConvolutionsAfterTap(remaining, copy.deepcopy(linear)), base)
