"""Learners that cheat, or whose outputs are not reproducible, with a tiny base and env."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Base,
    ClassTask,
    Components,
    Examples,
    Features,
    Heads,
    InputShapes,
    Learner,
    Predict,
    Task,
    TaskStream,
    Trainable,
)

SHIFT = torch.tensor([1.0, -1.0] * 32)


@attrs.frozen
class Config:
    """No options."""


class Linear(Base):
    """A linear layer on four numbers."""

    Config = Config

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        self.shape = (8,)
        self.net = nn.Linear(4, 8)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.net(inputs["image"]))


class Points(TaskStream):
    """Three tasks of two classes of points, with 40 test examples each."""

    Config = Config
    recipe = {"steps": 2, "batch_size": 8}

    def __init__(self, config: Config, seed: int) -> None:
        self.inputs = {"image": (4,)}

    def tasks(self) -> list[ClassTask]:
        points = torch.randn(240, 4, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(240) % 6
        examples = Examples(
            {"train": points[:120], "test": points[120:]}, {"train": labels[:120], "test": labels[120:]}
        )
        return [
            self.make(f"t{k}", f"points {k}", examples, (2 * k, 2 * k + 1), transform=torch.clone)
            for k in range(3)
        ]

    make: Any = ClassTask


class Sampled(ClassTask):
    """An evaluation that draws, as with sampled actions: from a state of its own."""

    draws = itertools.count()

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        accuracy = super().evaluate(predict, split)["accuracy"]
        return {"accuracy": accuracy + 0.001 * next(self.draws)}


class Documented(ClassTask):
    """Leaves its predictions and a picture."""

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        self.metrics = super().evaluate(predict, split)
        return self.metrics

    def documents(self) -> dict[str, str]:
        return {"predictions.json": f"{self.metrics}"}

    def visualisations(self, predict: Predict) -> dict[str, Tensor]:
        return {"grey": torch.full((3, 2, 2), 0.5)}


class DocumentedPoints(Points):
    make = Documented


class SampledPoints(Points):
    make = Sampled


def shifted(encoding: Tensor, amount: float | Tensor) -> Tensor:
    """Encodings (B, C) moved along one direction."""
    return encoding + amount * SHIFT[: encoding.shape[1]].to(encoding.device)


class Sound(Learner):
    """A head for each task on the encoding of a frozen base."""

    Config = Config

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)
        self.prepare()

    def prepare(self) -> None:
        """For faults."""

    def start(self, task: Task) -> Trainable:
        return [self.heads.add_task(task)]

    def encode(self, encoding: Tensor) -> Tensor:
        return encoding

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.encode(self.base(inputs).encoding), task_id)


class BatchStatistics(Sound):
    """Normalises by the mean over the batch."""

    def encode(self, encoding: Tensor) -> Tensor:
        return encoding - encoding.mean(0)


class Dropout(Sound):
    """Leaves dropout on."""

    def encode(self, encoding: Tensor) -> Tensor:
        return functional.dropout(encoding, training=True)


class PythonRandom(Sound):
    """Draws from Python's generator."""

    def encode(self, encoding: Tensor) -> Tensor:
        return shifted(encoding, random.uniform(-1, 1))


class OwnGenerator(Sound):
    """Draws from a generator of its own."""

    def prepare(self) -> None:
        self.generator = np.random.default_rng(0)

    def encode(self, encoding: Tensor) -> Tensor:
        return shifted(encoding, self.generator.uniform(-1, 1))


class Counter(Sound):
    """Counts the forward passes."""

    def prepare(self) -> None:
        self.passes = 0

    def encode(self, encoding: Tensor) -> Tensor:
        self.passes += 1
        return shifted(encoding, self.passes / 97)


class Clock(Sound):
    """Depends on the time."""

    def encode(self, encoding: Tensor) -> Tensor:
        return shifted(encoding, time.perf_counter() % 1)


class BatchSize(Sound):
    """Answers small batches otherwise."""

    def encode(self, encoding: Tensor) -> Tensor:
        return encoding if len(encoding) > 10 else -encoding


class OrderOfExamples(Sound):
    """Depends on the place in the batch."""

    def encode(self, encoding: Tensor) -> Tensor:
        return shifted(encoding, torch.linspace(-1, 1, len(encoding), device=encoding.device)[:, None])


class PlainTensor(Sound):
    """Adds a tensor that is no buffer, and that each task changes."""

    def prepare(self) -> None:
        self.scale = torch.ones(1)

    def start(self, task: Task) -> Trainable:
        self.scale = self.scale + 1
        return super().start(task)

    def encode(self, encoding: Tensor) -> Tensor:
        return shifted(encoding, self.scale.to(encoding.device))


class LazyBuffer(Sound):
    """Moves a buffer that no checkpoint has in every forward pass."""

    def prepare(self) -> None:
        self.register_buffer("mean", torch.zeros(self.base.shape), persistent=False)

    def encode(self, encoding: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * encoding.detach().mean(0)
        return encoding - self.mean


class HiddenModule(Sound):
    """Holds a layer in a list, and draws a new one for each task."""

    def prepare(self) -> None:
        self.hidden: list[nn.Module] = []

    def start(self, task: Task) -> Trainable:
        self.hidden[:] = [nn.Linear(self.base.shape[-1], self.base.shape[-1]).requires_grad_(False)]
        return super().start(task)

    def encode(self, encoding: Tensor) -> Tensor:
        for layer in self.hidden:
            encoding = layer.to(encoding.device)(encoding)
        return encoding


class NotANumber(Sound):
    """Divides zero by zero once it is in evaluation."""

    def encode(self, encoding: Tensor) -> Tensor:
        return encoding if torch.is_grad_enabled() else encoding * float("nan")


class Turncoat(Sound):
    """Answers large batches otherwise once it has several tasks: no probe shows it."""

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        output = super().forward(inputs, task_id)
        return (
            -output if len(output) > 10 and len(self.heads) > 1 + list(self.heads).index(task_id) else output
        )


class OverwritesBase(Sound):
    """Moves a weight of the base in every forward pass."""

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        with torch.no_grad():
            next(self.base.parameters()).add_(1e-3)
        return super().forward(inputs, task_id)
