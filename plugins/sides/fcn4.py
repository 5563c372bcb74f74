"""FCN4: the side network of the original iCIFAR experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    FitError,
    InputShapes,
    Published,
    Renamed,
    StagedSide,
    load_weights,
    option,
    register_image_stats,
)

CHANNELS = 64
MIN_SIZE = 15
"""Smallest height and width of an image, in pixels; its last map is 1 x 1."""
PUBLISHED = Published(
    "fcn4-cifar.pth",
    "https://github.com/jozhang97/side-tuning/raw/master/assets/pytorch/distillation/fcn4-cifar.pth",
    "ebd89aec4d825bf0ac261e449e28cc283fb1fe66a682714e206f1bca1f23de8e",
    holds_objects=True,
)


class FCN4(StagedSide):
    """Four 3 x 3 convolutions, 25,904 parameters, for bases that encode an image as (64,).

    Widths 16, 16, 32, 64; strides 1, 2, 2, 1; padding in the first layer only, so that 32 x 32 pixels give
    maps of 32, 15, 7 and 5. The first three layers have GroupNorm with two groups. Input ``image`` (B, 3, H,
    W) in [0, 1], normalised inside with ImageNet's mean and standard deviation. Encoding (B, 64): the mean
    over the last map.

    Raises:
        FitError: the base's encoding is not (64,), or the env has no ``image`` (3, H, W) of at least 15 x 15
            pixels.
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of FCN4."""

        weights: str = option(
            "packaged",
            "'packaged' (distilled from resnet44 on CIFAR-10 by this project), 'authors' (the file that the "
            "paper's authors published), 'none' (random), or a .safetensors or .pth file",
        )
        former_options: ClassVar[Mapping[str, Renamed]] = {"weights": Renamed("weights", {"seed": "authors"})}

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < MIN_SIZE:
            raise FitError(
                f"side 'fcn4' needs an input 'image' of shape (3, H, W), H and W at least {MIN_SIZE}; "
                f"got {dict(inputs)}"
            )
        if tuple(base.shape) != (CHANNELS,):
            raise FitError(f"side 'fcn4' encodes as ({CHANNELS},), but the base as {tuple(base.shape)}")
        register_image_stats(self)
        self.conv1 = _layer(3, 16, stride=1, padding=1)
        self.conv2 = _layer(16, 16, stride=2)
        self.conv3 = _layer(16, 32, stride=2)
        # There is no conv4: the name is that of the published weights.
        self.conv5 = nn.Sequential(nn.Conv2d(32, CHANNELS, 3, bias=False), nn.ReLU())
        packaged = Path(__file__).parent / "weights" / "fcn4-cifar10.safetensors"
        load_weights(self, config.weights, owner="side 'fcn4'", packaged=packaged, published=PUBLISHED)
        with torch.no_grad():
            activations = self.run({"image": torch.zeros(1, *shape)})
        self.stage_shapes = tuple(tuple(activation.shape[1:]) for activation in activations)

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """``image``, normalised."""
        return (inputs["image"] - self.mean) / self.std

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """For each layer, convolution and norm, and ReLU."""
        return [(layer[:-1], layer[-1]) for layer in (self.conv1, self.conv2, self.conv3, self.conv5)]

    def project(self, activation: Tensor) -> Tensor:
        """The mean over the last map, (B, 64)."""
        return activation.mean((2, 3))


def _layer(c_in: int, c_out: int, stride: int, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride=stride, padding=padding, bias=False),
        nn.GroupNorm(2, c_out),
        nn.ReLU(),
    )
