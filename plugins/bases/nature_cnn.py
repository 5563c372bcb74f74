"""The network of the first deep agents that played Atari."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, Features, FitError, InputShapes, load_weights, option

from ._flat import flat, orthogonal, width

LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, kernel and stride."""
SMALLEST = 36
WIDTH = 512


class NatureCNN(Base):
    """Three convolutions and a linear layer, with ReLU (Mnih et al., Human-level control, Nature 2015, methods).

    Input ``image`` (B, C, H, W) of at least 36 x 36, 84 x 84 in the paper; other inputs are flattened and join in front of the linear
    layer. Encoding (B, 512). Taps: what each convolution gives.

    Raises:
        FitError: there is no such ``image``.
        WeightsError: weights are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of NatureCNN."""

        weights: str = option("none", "'none' (random), or a .safetensors or .pth file")

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            raise FitError(
                f"base 'nature-cnn' needs an input 'image' of shape (C, H, W), H and W at least {SMALLEST}; got {dict(inputs)}"
            )
        self.convolutions = nn.ModuleList()
        taps, current = [], torch.zeros(1, *shape)
        for channels, kernel, stride in LAYERS:
            convolution = orthogonal(nn.Conv2d(current.shape[1], channels, kernel, stride))
            self.convolutions.append(convolution)
            with torch.no_grad():
                current = convolution(current)
            taps.append(tuple(current.shape[1:]))
        self.linear = orthogonal(nn.Linear(current[0].numel() + width(inputs, besides="image"), WIDTH))
        self.shape, self.tap_shapes = (WIDTH,), tuple(taps)
        packaged = Path(__file__).parent / "weights" / "nature-cnn.safetensors"
        load_weights(self, config.weights, owner="base 'nature-cnn'", packaged=packaged)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, 512), and what each convolution gives."""
        current, taps = inputs["image"], []
        for convolution in self.convolutions:
            current = convolution(current).relu()
            taps.append(current)
        rows = [current.flatten(1), *([flat(inputs, besides="image")] if len(inputs) > 1 else [])]
        return Features(self.linear(torch.cat(rows, 1)).relu(), tuple(taps))
