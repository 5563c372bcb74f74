"""Objectives of supervised tasks: what the outputs are, the loss, and the metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import attrs
from torch import Tensor
from torch.nn import functional

from sidetune_core.interfaces.outputs import Outputs


class Measurement(ABC):
    """The metrics of one evaluation, accumulated over batches."""

    @abstractmethod
    def add(self, output: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs (B, ...) of the head and targets (B, ...), on the CPU."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Metrics by name over all batches."""

    def documents(self) -> Mapping[str, str]:
        """Texts by file name, such as a confusion matrix (see `HasDocuments`)."""
        return {}


class Objective(ABC):
    """What a supervised task asks of the outputs (B, K) of a linear head."""

    outputs: Outputs
    metric: str
    """Name of the metric that R records, one of those of `Measurement.metrics`."""
    higher_is_better: bool = True

    @abstractmethod
    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """(B,), the loss of each example."""

    @abstractmethod
    def measure(self) -> Measurement:
        """A new measurement."""


@attrs.frozen(eq=False)
class Classification(Objective):
    """One of several classes: cross-entropy; targets (B,) int64 count from 0 in the order of the outputs."""

    outputs: Outputs
    metric: str = "accuracy"
    higher_is_better: bool = True

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(output.float(), targets, reduction="none")

    def measure(self) -> Measurement:
        return ClassMeasurement()


class ClassMeasurement(Measurement):
    """Accuracy in [0, 1] and mean cross-entropy in nats."""

    def __init__(self) -> None:
        self._count, self._correct, self._loss = 0, 0, 0.0

    def add(self, output: Tensor, targets: Tensor) -> None:
        self._count += len(targets)
        self._correct += int((output.argmax(1) == targets).sum())
        self._loss += float(functional.cross_entropy(output.float(), targets, reduction="none").sum())

    def metrics(self) -> dict[str, float]:
        return {"accuracy": self._correct / self._count, "loss": self._loss / self._count}
