"""A supervised task: a source for each split, and an objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from sidetune_core.interfaces.heads import ClassHead
from sidetune_core.interfaces.inputs import Inputs, Shape
from sidetune_core.interfaces.tasks import Batch, DataPart, Order, Predict, Task, shuffled
from sidetune_core.seeding import derive_seed
from sidetune_core.supervised.data_parts import source_parts
from sidetune_core.supervised.objectives import Objective
from sidetune_core.supervised.sources import LoadedExamples, Request, Source

EVALUATION_BATCH = 250
"""Batch size of `SupervisedTask.evaluate`."""


class SupervisedTask(Task):
    """Learn an objective from labelled examples.

    Args:
        id: see `Task`.
        title: see `Task`.
        sources: by split, with ``train`` and ``test``.
        objective: the outputs, the loss and the metrics.
    """

    def __init__(self, id: str, title: str, sources: Mapping[str, Source], objective: Objective) -> None:
        self.id, self.title = id, title
        self.inputs = sources["train"].shapes
        self.splits = tuple(split for split in sources if split != "train")
        self.outputs, self.metric = objective.outputs, objective.metric
        self.higher_is_better = objective.higher_is_better
        self.sources, self.objective = sources, objective
        self._documents: Mapping[str, str] = {}

    def size(self, split: str) -> int:
        """Number of examples in a split."""
        return len(self.sources[split])

    def training_size(self) -> int:
        return self.size("train")

    def make_head(self, shape: Shape) -> nn.Module:
        size = self.outputs.size
        assert size is not None  # an objective declares it
        return ClassHead(shape, size)

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, round(self.training_size() / batch_size))

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        source = self.sources["train"]
        for examples in source.read(self._requests(order)):
            yield _batch(examples, source)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return self.objective.loss(output, batch.targets)

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """The metrics of the objective."""
        measurement = self.objective.measure()
        for batch in self.batches(split):
            measurement.add(predict(batch.inputs).cpu(), batch.targets)
        self._documents = measurement.documents()
        return measurement.metrics()

    def batches(self, split: str) -> Iterator[Batch]:
        """The examples of a split in order, once and as they are."""
        source = self.sources[split]
        rows = torch.arange(len(source))
        firsts = range(0, len(rows), EVALUATION_BATCH)
        for examples in source.read(Request(rows[first : first + EVALUATION_BATCH]) for first in firsts):
            yield _batch(examples, source)

    def data_parts(self) -> Mapping[str, DataPart]:
        """A part for each split and class; for each split if the targets are no classes."""
        return {
            f"{split}/{name}" if name else split: part
            for split, source in self.sources.items()
            for name, part in source_parts(source, self.outputs).items()
        }

    def documents(self) -> Mapping[str, str]:
        """Those of the latest `evaluate`, such as a confusion matrix."""
        return self._documents

    def _requests(self, order: Order) -> Iterator[Request]:
        """The training batches without end."""
        source = self.sources["train"]
        for step, rows in enumerate(shuffled(len(source), order, self.id), order.first_step):
            yield Request(
                rows, derive_seed(order.seed, "augment", self.id, step) if source.augments else None
            )


def _batch(examples: LoadedExamples, source: Source) -> Batch:
    ids = source.ids(examples.request.rows)
    cached = ids if examples.request.seed is None else None  # augmented inputs are new each time
    return Batch(ids, Inputs(examples.inputs, cached), examples.targets)
