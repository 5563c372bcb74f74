"""FCN5 as a base: a small encoder for camera images."""

from __future__ import annotations

import copy
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
    load_weights,
    option,
    select_blocks,
)

from ._continuation import as_trainable

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
CHANNELS = 8
MIN_SIZE = 16
"""Smallest height and width of an image, in pixels."""


class FCN5(Base):
    """Five convolutions and a skip connection; 64,480 parameters at width 16.

    ``image`` (B, 3, H, W) in [0, 1], scaled to [-1, 1] inside, to (B, 8, H/16, W/16). The layers are those
    of side 'fcn5', whose width is 64: kernels 8, 3, 3, 3, 3, strides 4, 2, 2, 1, 1, and w, 4w, 4w, w, 8
    channels for width w, each with GroupNorm and ReLU; the skip is a 3 x 3 layer from the second map to the
    last. State dicts of base and side have the same keys. Taps: the outputs of all layers but the last.

    Raises:
        FitError: the env has no ``image`` (3, H, W) of at least 16 x 16 pixels, or the width is odd.
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of FCN5."""

        width: int = option(16, "channels of the first layer, even", at_least(2))
        weights: str = option(
            "none",
            "'packaged' (trained on depth in VizDoom, width 16), 'none' (random), or a .safetensors, .pth or "
            ".dat file",
        )

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < MIN_SIZE:
            raise FitError(
                f"base 'fcn5' needs an input 'image' of shape (3, H, W), H and W at least {MIN_SIZE}; "
                f"got {dict(inputs)}"
            )
        if config.width % 2:
            raise FitError(
                "base 'fcn5' normalises channels in two groups: --base.width must be even, not "
                f"{config.width}"
            )
        narrow, wide = config.width, 4 * config.width
        self.conv1 = _layer(3, narrow, kernel=8, stride=4, padding=2)
        self.conv2 = _layer(narrow, wide, stride=2)
        self.conv3 = _layer(wide, wide, stride=2)
        self.conv4 = _layer(wide, narrow)
        self.conv5 = _layer(narrow, CHANNELS)
        self.skip = _layer(wide, CHANNELS, stride=2)
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, *shape))
        self.shape = tuple(maps[-1].shape[1:])
        self.tap_shapes = tuple(tuple(tap.shape[1:]) for tap in maps[:-1])
        packaged = Path(__file__).parent / "weights" / "fcn5-vizdoom.safetensors"
        load_weights(self, config.weights, owner="base 'fcn5'", packaged=packaged)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, 8, H/16, W/16) of ``image``, and the outputs of the other layers."""
        *taps, encoding = self._maps(inputs["image"])
        return Features(encoding, tuple(taps))

    def blocks(self) -> tuple[Block, ...]:
        """The five layers, each of which changes the shape."""
        return tuple(Block(name, index - 1, optional=False) for index, name in enumerate(LAYERS))

    def continued(self, tap: int, keep: Collection[int] | None = None) -> _AfterTap:
        """See `Continuable`; the skip connection goes past taps 2 and 3.

        Raises:
            FitError: also for these taps.
        """
        select_blocks(self.blocks(), len(self.tap_shapes), tap, keep)
        if tap > 1:
            raise FitError(
                f"base 'fcn5' cannot be continued from tap {tap}: its encoding also depends on tap 1, by the "
                "skip connection; choose tap 0 or 1"
            )
        return as_trainable(_AfterTap(self, tap), self)

    def _maps(self, image: Tensor) -> list[Tensor]:
        maps = [self.conv1(2 * image - 1)]
        for layer in (self.conv2, self.conv3, self.conv4, self.conv5):
            maps.append(layer(maps[-1]))
        maps[-1] = maps[-1] + self.skip(maps[1])
        return maps


class _AfterTap(Continuation):
    """The layers after the first or the second; a tap (B, C, h, w) to the encoding (B, 8, H/16, W/16)."""

    def __init__(self, base: FCN5, tap: int) -> None:
        super().__init__()
        for name in (*LAYERS[tap + 1 :], "skip"):
            self.add_module(name, copy.deepcopy(base.get_submodule(name)))

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        layers = dict(self.named_children())
        second = layers["conv2"](tap) if "conv2" in layers else tap
        third = layers["conv3"](second)
        encoding: Tensor = layers["conv5"](layers["conv4"](third)) + layers["skip"](second)
        return encoding


def _layer(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Sequential:
    """A convolution without bias, GroupNorm with two groups, ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=padding, bias=False),
        nn.GroupNorm(2, c_out),
        nn.ReLU(),
    )
