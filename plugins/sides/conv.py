"""Three small convolutions, for images of any size and bases of any encoding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
from torch import Tensor, nn

from sidetune_core.api import Base, FitError, InputShapes, StagedSide, init_orthogonal, load_weights, option

CHANNELS = (8, 16, 32)


class Conv(StagedSide):
    """Three 3 x 3 convolutions of stride 2 with ReLU, and a linear layer to the base's encoding.

    The convolutions have 8, 16 and 32 channels. Input ``image`` (B, C, H, W) of any size, such as MiniGrid's
    7 x 7 symbols or the 64 x 64 pixels of a camera. The last map is flattened rather than averaged, which
    keeps spatial information.

    Raises:
        FitError: the env has no ``image`` (C, H, W).
        WeightsError: the weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of Conv."""

        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3:
            raise FitError(f"side 'conv' needs an input 'image' of shape (C, H, W); got {dict(inputs)}")
        self.convolutions = nn.ModuleList()
        shapes, (c_in, height, width) = [], shape
        for c_out in CHANNELS:
            self.convolutions.append(init_orthogonal(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)))
            c_in, height, width = c_out, (height + 1) // 2, (width + 1) // 2
            shapes.append((c_out, height, width))
        self.relu = nn.ReLU()
        self.last = init_orthogonal(nn.Linear(math.prod(shapes[-1]), math.prod(base.shape)))
        self.stage_shapes = tuple(shapes)
        self._shape = tuple(base.shape)
        load_weights(self, config.weights, owner="side 'conv'")

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """``image``"""
        return inputs["image"]

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """The convolutions, each with ReLU."""
        return [(convolution, self.relu) for convolution in self.convolutions]

    def project(self, activation: Tensor) -> Tensor:
        """The linear layer on the flattened map, (B, *base.shape)."""
        encoding: Tensor = self.last(activation.flatten(1))
        return encoding.view(-1, *self._shape)
