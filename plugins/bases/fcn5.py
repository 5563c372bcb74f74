"""FCN5 as a base: a small encoder of camera images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, Features, FitError, InputShapes, at_least, load_weights, option

CHANNELS = 8
SMALLEST = 16


class FCN5(Base):
    """Five convolutions and a skip, ``image`` (B, 3, H, W) in [0, 1] to (B, 8, H/16, W/16); 64,480 parameters at width 16.

    The layers of side 'fcn5', which has a width of 64: 8 x 8 with stride 4, then 3 x 3 with strides 2, 2, 1 and 1; `width`, four times
    that, again, `width` and 8 channels, each with GroupNorm and ReLU, and a 3 x 3 layer from the second map to the last. Pixels are scaled
    to [-1, 1] inside. Keys are those of the side, so that the one takes weights of the other. Taps: what each layer but the last gives.

    Raises:
        FitError: the env gives no ``image`` of three channels and at least 16 x 16 pixels.
        WeightsError: weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of FCN5."""

        width: int = option(16, "channels of the first layer, an even number", at_least(2))
        weights: str = option(
            "none",
            "'packaged' (depth in VizDoom, width 16), 'none' (random), or a .safetensors, .pth or .dat file",
        )

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < SMALLEST:
            raise FitError(
                f"base 'fcn5' needs an input 'image' of shape (3, H, W), H and W at least {SMALLEST}; got {dict(inputs)}"
            )
        if config.width % 2:
            raise FitError(
                f"base 'fcn5' standardises channels in two groups; --base.width {config.width} is odd"
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
        self.tap_shapes = tuple(tuple(one.shape[1:]) for one in maps[:-1])
        load_weights(
            self,
            config.weights,
            owner="base 'fcn5'",
            packaged=Path(__file__).parent / "weights" / "fcn5-vizdoom.safetensors",
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, 8, H/16, W/16) of ``image``, and what the other layers give."""
        *taps, encoding = self._maps(inputs["image"])
        return Features(encoding, tuple(taps))

    def _maps(self, image: Tensor) -> list[Tensor]:
        maps = [self.conv1(2 * image - 1)]
        for layer in (self.conv2, self.conv3, self.conv4, self.conv5):
            maps.append(layer(maps[-1]))
        maps[-1] = maps[-1] + self.skip(maps[1])
        return maps


def _layer(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Sequential:
    """A convolution without bias, GroupNorm with two groups, ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=padding, bias=False),
        nn.GroupNorm(2, c_out),
        nn.ReLU(),
    )
