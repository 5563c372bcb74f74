"""A base and a side so small that a run takes a fraction of a second, with all that a resume could lose:
batch norm, dropout, maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, Features, InputShapes, StagedSide


@attrs.frozen
class Config:
    """No options."""


class TinyBase(Base):
    """``image`` (3, 8, 8) to (16,), pretrained in that its weights are always the same. The linear layer
    rounds as its batch is large.
    """

    Config = Config

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        self.shape, self.tap_shapes = (16,), ((4, 4, 4),)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.norm, self.last = (
                nn.Conv2d(3, 4, 3, stride=2, padding=1),
                nn.BatchNorm2d(4),
                nn.Linear(64, 16),
            )

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        tap = self.norm(self.conv(inputs["image"])).relu()
        return Features(self.last(tap.flatten(1)), (tap,))


class TinySide(StagedSide):
    """``image`` (3, 8, 8) to (16,) in two stages, with dropout."""

    Config = Config

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        self.stage_shapes = ((4, 4, 4), (4, 2, 2))
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        self.second = nn.Sequential(nn.Dropout(0.2), nn.Conv2d(4, 4, 3, stride=2, padding=1))
        self.relus = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        self.last = nn.Linear(16, 16)

    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["image"]

    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        return list(zip((self.first, self.second), self.relus, strict=True))

    def project(self, activation: Tensor) -> Tensor:
        encoding: Tensor = self.last(activation.flatten(1))
        return encoding
