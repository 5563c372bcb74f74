"""Learners that pass images with a white first pixel through another expert; the third task trains it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from stored import Plain
from tiny import Config, TinyBase
from torch import Tensor, nn

from sidetune_core.api import Components, Features, InputShapes, Task


def experts() -> nn.ModuleList:
    """Two layers (B, 16) to (B, 16), with weights that are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])


def route(layers: nn.ModuleList, inputs: Mapping[str, Tensor], encoding: Tensor) -> Tensor:
    """Pass each example through one of two layers; a layer that no example needs is not read."""
    is_white = inputs["image"][:, :, 0, 0].amin(1) > 0.9
    output: Tensor = layers[0](encoding)
    return torch.where(is_white[:, None], layers[1](encoding), output) if is_white.any() else output


class RoutedBase(TinyBase):
    """Routes its encoding."""

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__(config, inputs)
        self.experts = experts()

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        features = super().forward(inputs)
        return Features(route(self.experts, inputs, features.encoding), features.taps)


class TrainsBase(Plain):
    """Trains an expert of the base."""

    def start(self, task: Task) -> list[Any]:
        layers = [self.base.experts[1]] if task.id == "t2" else []  # type: ignore[index]
        return [*super().start(task), *layers]


class TrainsLearner(Plain):
    """Routes what a frozen base returns, and trains an expert of its own."""

    def __init__(self, config: Plain.Config, components: Components) -> None:
        super().__init__(config, components)
        self.experts = experts()

    def start(self, task: Task) -> list[Any]:
        return [*super().start(task), *([self.experts[1]] if task.id == "t2" else [])]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(route(self.experts, inputs, self.base(inputs).encoding), task_id)
