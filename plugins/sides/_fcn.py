"""What the side networks for dense encodings share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Base, FitError, InputShapes, StagedSide, load_weights, option

SMALLEST = 16


@attrs.frozen
class Options:
    """Options of a fully convolutional side."""

    weights: str = option(
        "none", "'none' (random), or a .safetensors, .pth or .dat file, such as a distilled student's"
    )


@attrs.frozen
class Layer:
    """A convolution without bias, GroupNorm with two groups, ReLU."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    norm: bool = True


@attrs.frozen
class Skip:
    """A 3 x 3 layer from the map that a layer gives to the map that a later one gives, to which it is added. Layers count from 1."""

    name: str
    source: int
    target: int
    stride: int = 1


class FCN(StagedSide):
    """A chain of convolutions for bases that encode as a map (C, H, W); a subclass says which layers.

    Input ``image`` (B, 3, H, W) in [0, 1], scaled to [-1, 1] inside. The last layer has as many channels as the base's encoding, 8 in the
    original. It gives H/16 x W/16, as the Taskonomy encoder does where 16 divides H and W; where a base's map has another size, the side's
    is brought to it by averaging or repetition. Stages, for lateral connections, are the layers; what a skip adds comes after the
    activation.

    Encoding: (B, C, H, W), as the base's.

    Raises:
        FitError: the base's encoding is no map, or there is no ``image`` of three channels and at least 16 x 16 pixels.
        WeightsError: weights are missing, unsafe, or of another architecture.
    """

    Config = Options
    name: ClassVar[str]
    packaged: ClassVar[str] = "none"
    """The file in ``weights`` that comes with the package, for sides that have one."""
    layers: ClassVar[Sequence[Layer]]
    """In their order; the last one's channels are replaced by those of the base."""
    skips: ClassVar[Sequence[Skip]] = ()

    def __init__(self, config: Options, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < SMALLEST:
            raise FitError(
                f"side '{self.name}' needs an input 'image' of shape (3, H, W), H and W at least {SMALLEST}; got {dict(inputs)}"
            )
        if len(base.shape) != 3 or base.shape[0] % 2:
            raise FitError(
                f"side '{self.name}' encodes as a map (C, H, W), C even, and the base as {tuple(base.shape)}"
            )
        self.size = tuple(base.shape[1:])
        layers = [*self.layers[:-1], attrs.evolve(self.layers[-1], channels=base.shape[0])]
        widths = [3, *(layer.channels for layer in layers)]
        for number, layer in enumerate(layers, 1):
            self.add_module(f"conv{number}", _modules(widths[number - 1], layer))
        for skip in self.skips:
            self.add_module(
                skip.name, _modules(widths[skip.source], Layer(widths[skip.target], stride=skip.stride))
            )
        packaged = Path(__file__).parent / "weights" / self.packaged
        load_weights(self, config.weights, owner=f"side '{self.name}'", packaged=packaged)
        with torch.no_grad():
            self.stage_shapes = tuple(
                tuple(maps.shape[1:]) for maps in self.run({"image": torch.zeros(1, *shape)})
            )

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """``image``, scaled to [-1, 1]."""
        return 2 * inputs["image"] - 1

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """Convolution and norm, then ReLU, for each layer."""
        chain = [self.get_submodule(f"conv{number}") for number in range(1, len(self.layers) + 1)]
        return [(layer[:-1], layer[-1]) for layer in chain if isinstance(layer, nn.Sequential)]

    def run(
        self, inputs: Mapping[str, Tensor], laterals: Callable[[int], Tensor | float] | None = None
    ) -> list[Tensor]:
        current = self.stem(inputs)
        activations: list[Tensor] = []
        for number, (linear, activate) in enumerate(self.stages()):
            before = linear(current)
            current = activate(before if laterals is None else before + laterals(number))
            for skip in self.skips:
                if skip.target == number + 1:
                    current = current + self.get_submodule(skip.name)(activations[skip.source - 1])
            activations.append(current)
        return activations

    def project(self, activation: Tensor) -> Tensor:
        """The last map in the size of the base's, (B, C, H, W)."""
        if tuple(activation.shape[2:]) == self.size:
            return activation
        height, width = self.size
        if activation.shape[2] >= height and activation.shape[3] >= width:
            return functional.adaptive_avg_pool2d(activation, (height, width))
        return functional.interpolate(activation, size=[height, width], mode="nearest")


def _modules(c_in: int, layer: Layer) -> nn.Sequential:
    """What a layer is made of."""
    norm = [nn.GroupNorm(2, layer.channels)] if layer.norm else []
    conv = nn.Conv2d(
        c_in, layer.channels, layer.kernel, stride=layer.stride, padding=layer.padding, bias=False
    )
    return nn.Sequential(conv, *norm, nn.ReLU())
