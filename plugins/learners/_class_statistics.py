"""Classification by statistics of a frozen base's encodings, without gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from sidetune_core.api import (
    Batch,
    BufferDict,
    Components,
    FitError,
    Inputs,
    Learner,
    Task,
    Trainable,
)

from ._one_pass import one_pass

MARGIN = 14.0
"""Of the logits of classes without examples below those of others: a probability of less than 1e-6, so that
their cross-entropy is finite."""


class ClassStatistics(Learner):
    """A learner without gradients that knows each class by the mean of its encodings.

    Encodings (C, H, W) and (L, C) are averaged over positions. Every training example of a task counts once,
    by its id, however often and in whatever order its batches repeat it; with augmentation, as it looks the
    first X
    Raises:
        FitError: a task is not a classification with a single label that declares its classes.
    """

    scenarios = frozenset({"task", "class"})
    name: ClassVar[str]

    def __init__(self, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        shape = self.base.shape
        self.channels = shape[1] if len(shape) == 2 else shape[0]
        self.means = BufferDict()
        """By task id, (classes, C)."""
        self.counts = BufferDict()
        """By task id, (classes,), int64: the examples of each class."""

    def start(self, task: Task) -> Trainable:
        size = task.outputs.size
        if task.outputs.kind != "logits" or size is None:
            raise FitError(
                f"learner '{self.name}' needs tasks of classification that declare their classes; "
                f"task '{task.id}' does not"
            )
        self.means[task.id] = torch.zeros(size, self.channels)
        self.counts[task.id] = torch.zeros(size, dtype=torch.int64)
        return []

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.predict(inputs, task_id)

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        task_ids = list(self.means) if task_id is None else [task_id]
        scores = self.scores(self.encode(inputs), task_ids)
        empty = torch.cat([self.counts[started] for started in task_ids]) == 0
        lowest = scores.masked_fill(empty, torch.inf).amin(1, keepdim=True) - MARGIN
        return torch.where(empty & ~empty.all(), lowest, scores)

    @abstractmethod
    def scores(self, encodings: Tensor, task_ids: Sequence[str]) -> Tensor:
        """Logits (B, classes) of the classes of some tasks in order, for encodings (B, C)."""

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Encodings (B, C) in float32, averaged over positions."""
        encoding: Tensor = self.base(inputs).encoding.float()
        if encoding.ndim == 4:
            return encoding.mean((2, 3))
        if encoding.ndim == 3:
            lengths = inputs.lengths if isinstance(inputs, Inputs) else None
            return encoding.mean(1) if lengths is None else encoding.sum(1) / lengths[:, None]
        return encoding

    def measure(self, task: Task, batches: Iterator[Batch]) -> Running:
        """The means of a task's classes, from each of its training examples once."""
        statistics = Running.empty(self.means[task.id])
        for batch in one_pass(task, batches):
            if batch.targets.ndim != 1 or batch.targets.is_floating_point():
                raise FitError(f"learner '{self.name}' needs a class for each example")
            statistics.add(self.encode(batch.inputs).double(), batch.targets)
        self.means[task.id] = statistics.means.float()
        self.counts[task.id] = statistics.counts.long()
        return statistics


@attrs.define(eq=False)
class Running:
    """Means, counts and pooled scatter of classes, updated by batch, in float64."""

    means: Tensor
    """(classes, C)"""
    counts: Tensor
    """(classes,)"""
    scatter: Tensor
    """(C, C): the sum over all examples z of ``(z - m)(z - m)^T``, with m the mean of the class of z."""

    @classmethod
    def empty(cls, means: Tensor) -> Running:
        """Of no examples; `means` gives number of classes, channels and device."""
        zeros = torch.zeros_like(means, dtype=torch.float64)
        return cls(zeros, zeros[:, 0].clone(), zeros.new_zeros(means.shape[1], means.shape[1]))

    def add(self, encodings: Tensor, targets: Tensor) -> None:
        """Add examples (B, C) of classes (B,): the pairwise update of Chan et al. (1979), which is exact."""
        new = torch.zeros_like(self.counts).index_add_(0, targets, torch.ones_like(encodings[:, 0]))
        sums = torch.zeros_like(self.means).index_add_(0, targets, encodings)
        means = sums / new.clamp(min=1)[:, None]
        total = (self.counts + new).clamp(min=1)
        shift = (means - self.means) * (new > 0)[:, None]
        within, between = encodings - means[targets], shift * (self.counts * new / total).sqrt()[:, None]
        self.scatter += within.T @ within + between.T @ between
        self.means += shift * (new / total)[:, None]
        self.counts += new
