"""Fully convolutional sides for dense encodings: the side networks of the original dense experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Base, FitError, InputShapes, StagedSide, load_weights, option

MIN_SIZE = 16
"""Smallest height and width of an image, in pixels."""


@attrs.frozen
class FCNOptions:
    """Options of a fully convolutional side."""

    weights: str = option(
        "none", "'none' (random), or a .safetensors, .pth or .dat file, for example of a distilled student"
    )


@attrs.frozen
class FCN5Options(FCNOptions):
    """Options of FCN5."""

    weights: str = option(
        "none",
        "'packaged' (distilled from the base of env 'rooms' by this project), 'none' (random), or a "
        ".safetensors, .pth or .dat file",
    )


@attrs.frozen
class Layer:
    """A convolution without bias, GroupNorm with two groups (if `norm`), ReLU."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    norm: bool = True


@attrs.frozen
class Skip:
    """A 3 x 3 layer on the output of layer `source`, added to that of layer `target`; numbers start at 1."""

    name: str
    source: int
    target: int
    stride: int = 1


class FCN(StagedSide):
    """A chain of convolutions for bases that encode as a map (C, H, W); a subclass declares the layers.

    Input ``image`` (B, 3, H, W) in [0, 1], scaled to [-1, 1] inside. The last layer has as many channels as
    the base's encoding (8 in the original) and a stride of 16 in total, as the Taskonomy encoder. If the
    base's map has another size, the side's is resized to it by average pooling or nearest-neighbour
    interpolation. Stages, for lateral connections, are the layers; a skip is added after the activation.

    Encoding: (B, C, H, W), as the base's.

    Raises:
        FitError: the base's encoding is not a map with even C, or the env has no ``image`` (3, H, W) of at
            least 16 x 16 pixels.
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    Config = FCNOptions
    name: ClassVar[str]
    packaged: ClassVar[Path | None] = None
    """The file of weights that comes with the package, if any."""
    layers: ClassVar[Sequence[Layer]]
    """The layers in order; the channels of the last are replaced by those of the base."""
    skips: ClassVar[Sequence[Skip]] = ()

    def __init__(self, config: FCNOptions, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < MIN_SIZE:
            raise FitError(
                f"side '{self.name}' needs an input 'image' of shape (3, H, W), H and W at least {MIN_SIZE}; "
                f"got {dict(inputs)}"
            )
        if len(base.shape) != 3 or base.shape[0] % 2:
            raise FitError(
                f"side '{self.name}' encodes as a map (C, H, W) with even C, but the base as "
                f"{tuple(base.shape)}"
            )
        self.size = tuple(base.shape[1:])
        layers = [*self.layers[:-1], attrs.evolve(self.layers[-1], channels=base.shape[0])]
        widths = [3, *(layer.channels for layer in layers)]
        for number, layer in enumerate(layers, 1):
            self.add_module(f"conv{number}", _modules(widths[number - 1], layer))
        for skip in self.skips:
            layer = Layer(widths[skip.target], stride=skip.stride)
            self.add_module(skip.name, _modules(widths[skip.source], layer))
        load_weights(self, config.weights, owner=f"side '{self.name}'", packaged=self.packaged)
        with torch.no_grad():
            activations = self.run({"image": torch.zeros(1, *shape)})
        self.stage_shapes = tuple(tuple(activation.shape[1:]) for activation in activations)

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """``image``, scaled to [-1, 1]."""
        return 2 * inputs["image"] - 1

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """For each layer, convolution and norm, and ReLU."""
        chain = [self.get_submodule(f"conv{number}") for number in range(1, len(self.layers) + 1)]
        return [(layer[:-1], layer[-1]) for layer in chain if isinstance(layer, nn.Sequential)]

    def run(
        self, inputs: Mapping[str, Tensor], laterals: Callable[[int], Tensor | float] | None = None
    ) -> list[Tensor]:
        current = self.stem(inputs)
        activations: list[Tensor] = []
        for index, (linear, activate) in enumerate(self.stages()):
            preactivation = linear(current)
            current = activate(preactivation if laterals is None else preactivation + laterals(index))
            for skip in self.skips:
                if skip.target == index + 1:
                    current = current + self.get_submodule(skip.name)(activations[skip.source - 1])
            activations.append(current)
        return activations

    def project(self, activation: Tensor) -> Tensor:
        """The last map, resized to the base's: (B, C, H, W)."""
        if tuple(activation.shape[2:]) == self.size:
            return activation
        height, width = self.size
        if activation.shape[2] >= height and activation.shape[3] >= width:
            return functional.adaptive_avg_pool2d(activation, (height, width))
        return functional.interpolate(activation, size=[height, width], mode="nearest")


class FCN3(FCN):
    """Three convolutions of 64, 256 and 8 channels; 178,816 parameters with a base of 8 channels.

    256 x 256 pixels give maps of 63, 33 and 16.
    """

    name = "fcn3"
    layers = (
        Layer(64, kernel=8, stride=4),
        Layer(256, stride=2, padding=2),
        Layer(8, stride=2, padding=0, norm=False),
    )


class FCN5(FCN):
    """Five convolutions and a skip; 921,376 parameters with a base of 8 channels.

    Widths 64, 256, 256, 64, 8; 256 x 256 pixels give maps of 64, 32, 16, 16 and 16. The skip leads from the
    second layer to the last. The state dict has the keys of the original code's students.
    """

    Config = FCN5Options
    name = "fcn5"
    packaged = Path(__file__).parent / "weights" / "fcn5-rooms.safetensors"
    layers = (
        Layer(64, kernel=8, stride=4, padding=2),
        Layer(256, stride=2),
        Layer(256, stride=2),
        Layer(64),
        Layer(8),
    )
    skips = (Skip("skip", source=2, target=5, stride=2),)


class FCN8(FCN):
    """Eight convolutions and three skips; 3,361,440 parameters with a base of 8 channels.

    Widths 64, 128, 256 four times, 128, 8; 256 x 256 pixels give maps of 64, 32 and then 16. The original
    code uses it as an independent network of the size of a base that twelve sides share.
    """

    name = "fcn8"
    layers = (
        Layer(64, kernel=8, stride=4, padding=2),
        Layer(128, stride=2),
        Layer(256, stride=2),
        Layer(256),
        Layer(256),
        Layer(256),
        Layer(128),
        Layer(8),
    )
    skips = (
        Skip("skip1", source=2, target=4, stride=2),
        Skip("skip2", source=4, target=6),
        Skip("skip3", source=6, target=8),
    )


def _modules(c_in: int, layer: Layer) -> nn.Sequential:
    norm = [nn.GroupNorm(2, layer.channels)] if layer.norm else []
    conv = nn.Conv2d(
        c_in, layer.channels, layer.kernel, stride=layer.stride, padding=layer.padding, bias=False
    )
    return nn.Sequential(conv, *norm, nn.ReLU())
