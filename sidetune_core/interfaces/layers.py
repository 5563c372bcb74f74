"""Layers and statistics that bases and sides share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from sidetune_core.errors import FitError
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.missions import has_mission

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's RGB channels, for pixels in [0, 1]."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's RGB channels, for pixels in [0, 1]."""

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def flat_size(inputs: InputShapes, exclude: str = "") -> int:
    """Total number of elements of one example over all inputs except `exclude`.

    Raises:
        FitError: there is a mission in words, whose ids are no quantities.
    """
    if has_mission(inputs):
        raise FitError(
            "the env has missions in words (--env.missions), which base and side 'combined' read: pass "
            "--base combined --side combined, or leave out --env.missions"
        )
    return sum(math.prod(shape) for name, shape in inputs.items() if name != exclude)


def flatten_inputs(inputs: Mapping[str, Tensor], exclude: str = "") -> Tensor:
    """All inputs except `exclude`, flattened and concatenated in alphabetical order: (B, flat_size)."""
    return torch.cat([inputs[name].flatten(1) for name in sorted(inputs) if name != exclude], 1)


def init_orthogonal(layer: Layer) -> Layer:
    """Initialise with orthogonal weights of gain sqrt(2) and zero biases, in place; return the layer.

    Huang et al., The 37 Implementation Details of Proximal Policy Optimization (2022), detail 2.
    """
    nn.init.orthogonal_(layer.weight, math.sqrt(2))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def register_image_stats(
    module: nn.Module, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> None:
    """Add the buffers ``mean`` and ``std``, (C, 1, 1), to `module`; its state dict does not contain them."""
    module.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
    module.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
