"""A base and an env of images for the tests of the methods. A run takes a fraction of a second;
without batch norm, the size of a micro-batch changes rounding only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, ClassTask, Examples, Features, InputShapes, TaskStream

CLASSES = 4


@attrs.frozen
class Config:
    """No options."""


class Conv(Base):
    """``image`` (3, 8, 8) to (16,), pretrained in that its weights are always the same."""

    Config = Config

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        self.shape = (16,)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
            self.second = nn.Conv2d(6, 6, 3, stride=2, padding=1)
            self.last = nn.Linear(24, 16)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        hidden = self.second(self.first(inputs["image"]).relu()).relu()
        return Features(self.last(hidden.flatten(1)))


class Images(TaskStream):
    """Two tasks of two classes of noise with a brightness of their own."""

    Config = Config
    inputs = {"image": (3, 8, 8)}

    def __init__(self, config: Config, seed: int) -> None:
        pass

    def tasks(self) -> Sequence[ClassTask]:
        """Two tasks, with 10 training and 4 test examples of each class."""
        generator = torch.Generator().manual_seed(1)
        labels = {"train": torch.arange(CLASSES).repeat(10), "test": torch.arange(CLASSES).repeat(4)}
        inputs = {split: self.draw(label, generator) for split, label in labels.items()}
        examples = Examples(inputs, labels)
        (name,) = self.inputs
        return [
            ClassTask(f"t{k}", f"task {k}", examples, (2 * k, 2 * k + 1), input=name, transform=torch.clone)
            for k in range(2)
        ]

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """(N, 3, 8, 8)"""
        noise = torch.rand(len(labels), 3, 8, 8, generator=generator)
        return noise + labels.view(-1, 1, 1, 1) / CLASSES
