"""Inputs as rows of numbers, and layers with the weights that reinforcement learning begins with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from sidetune_core.api import InputShapes

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def orthogonal(layer: Layer) -> Layer:
    """Orthogonal weights of gain sqrt(2) and zero biases (Huang et al., The 37 Implementation Details of PPO, detail 2)."""
    nn.init.orthogonal_(layer.weight, math.sqrt(2))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def width(inputs: InputShapes) -> int:
    """How many numbers all inputs have together."""
    return sum(math.prod(shape) for shape in inputs.values())


def flat(inputs: Mapping[str, Tensor]) -> Tensor:
    """All inputs one after another, in the order of their names: (B, width)."""
    return torch.cat([inputs[name].flatten(1) for name in sorted(inputs)], 1)
