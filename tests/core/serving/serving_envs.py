"""Envs of one task each, of vectors or tokens; imported as ``serving_envs:NAME``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    ClassHead,
    Inputs,
    Order,
    Outputs,
    Predict,
    Preprocessed,
    Shape,
    Task,
    TaskCard,
    TaskHandler,
    TaskStream,
    class_predictions,
)

SIZE = 16
"""Examples of a task."""


@attrs.frozen
class Config:
    """No options."""


class RandomTask(Task):
    """Two classes of random inputs of several names."""

    outputs = Outputs.of_classes(("no", "yes"))

    def __init__(self, id: str, tensors: Mapping[str, Tensor]) -> None:
        self.id, self.title, self._tensors = id, f"random {id}", tensors
        self.inputs = {name: tuple(value.shape[1:]) for name, value in tensors.items()}

    def card(self) -> Mapping[str, Any]:
        return {"scale": 2}

    def make_head(self, shape: Shape) -> nn.Module:
        return BranchingHead(shape) if self.id == "branching" else ClassHead(shape, 2)

    def steps_per_epoch(self, batch_size: int) -> int:
        return 1

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        while True:
            yield self._batch(torch.arange(order.batch_size) % SIZE)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(output, batch.targets, reduction="none")

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        batch = self._batch(torch.arange(SIZE))
        return {"accuracy": float((predict(batch.inputs).argmax(1) == batch.targets).float().mean())}

    def _batch(self, rows: Tensor) -> Batch:
        inputs = {name: value[rows] for name, value in self._tensors.items()}
        return Batch(rows, Inputs(inputs, rows), rows % 2)


class BranchingHead(nn.Module):
    """Computes something else for batches of more than two examples."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head = ClassHead(shape, 2)

    def forward(self, encoding: Tensor) -> Tensor:
        logits: Tensor = self.head(encoding)
        return -logits if len(encoding) > 2 else logits


class ScaledHandler(TaskHandler):
    """Takes tuples of numbers for the first input, which it multiplies by the card's scale."""

    def make_head(self, shape: Shape) -> nn.Module:
        return BranchingHead(shape) if self.card.title == "random branching" else ClassHead(shape, 2)

    def preprocess(self, values: Sequence[Any]) -> Preprocessed:
        name = next(iter(self.card.inputs))
        scaled = torch.stack([torch.tensor(value) for value in values]) * self.card.values["scale"]
        return Preprocessed(Inputs({name: scaled}), len(values))

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Any]:
        return class_predictions(output, self.card.outputs.names)


class _Random(TaskStream):
    Config = Config

    def __init__(self, config: Config, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    @classmethod
    def handler(cls, card: TaskCard) -> TaskHandler:
        return ScaledHandler(card)


class Vectors(_Random):
    """Vectors of four numbers."""

    inputs = {"state": (4,)}

    def tasks(self) -> Sequence[Task]:
        return [RandomTask("t0", {"state": torch.rand(SIZE, 4, generator=self._generator)})]


class Branching(Vectors):
    """`Vectors` with a `BranchingHead`."""

    def tasks(self) -> Sequence[Task]:
        return [RandomTask("branching", {"state": torch.rand(SIZE, 4, generator=self._generator)})]


class Tokens(_Random):
    """Sequences of eight tokens, the last two of which are padding."""

    inputs = {"tokens": (8,), "mask": (8,)}

    def tasks(self) -> Sequence[Task]:
        tokens = torch.randint(5, 20, (SIZE, 8), generator=self._generator)
        mask = torch.ones(SIZE, 8, dtype=torch.int64)
        mask[:, 6:] = 0
        return [RandomTask("t0", {"tokens": tokens * mask, "mask": mask})]
