"""Objectives of supervised tasks: what the outputs are, the loss, and the metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from sidetune_core.errors import DataError
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.interfaces.predictions import output_names
from sidetune_core.supervised.class_metrics import ClassCounts


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
        """(B,), the training loss of each example."""

    @abstractmethod
    def measure(self) -> Measurement:
        """A new measurement."""

    def negative_log_likelihood(self, output: Tensor, targets: Tensor) -> Tensor:
        """(B,), ``-log p(target|output)`` of each example up to a constant, which methods such as EWC
        differentiate; `loss` may be a multiple of it. By default `loss`."""
        return self.loss(output, targets)

    def check_targets(self, targets: Tensor, where: str) -> None:  # noqa: B027 - nothing to check by default
        """Check targets (N, ...); `where` says whose they are, for the message.

        Raises:
            DataError: their shape, type or range is wrong.
        """


def as_outputs_of(kind: str, given: Outputs | int | Sequence[str]) -> Outputs:
    """Outputs of a kind, by their number or their names.

    Raises:
        ValueError: they are outputs of another kind, or without a size.
    """
    if isinstance(given, int):
        return Outputs(kind, given)  # type: ignore[arg-type]
    if not isinstance(given, Outputs):
        return Outputs(kind, len(given), tuple(given))  # type: ignore[arg-type]
    if given.kind != kind or given.size is None:
        raise ValueError(f"expected outputs of kind '{kind}' with a size; got {given}")
    return given


def _class_outputs(given: Outputs | int | Sequence[str]) -> Outputs:
    # a subclass of ClassTask may declare other outputs, for which it has a loss of its own
    return given if isinstance(given, Outputs) else as_outputs_of("logits", given)


@attrs.frozen(eq=False)
class Classification(Objective):
    """One of several classes: cross-entropy; targets (B,) int64 count from 0 in the order of the outputs.

    Args:
        outputs: the number of classes, their names, or `Outputs`.
        weights: (K,) of the classes in the training loss (see `class_weights`); None for none. Metrics,
            the loss of an evaluation among them, are not weighted.
        metric: see `Objective`.
        higher_is_better: see `Objective`.
    """

    outputs: Outputs = attrs.field(converter=_class_outputs)
    weights: Tensor | None = None
    metric: str = "accuracy"
    higher_is_better: bool = True

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        weights = None if self.weights is None else self.weights.to(output.device)
        if weights is not None and output.shape[1] > len(weights):  # further classes, of other tasks
            weights = functional.pad(weights, (0, output.shape[1] - len(weights)), value=1.0)
        return functional.cross_entropy(output.float(), targets, weights, reduction="none")

    def negative_log_likelihood(self, output: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(output.float(), targets, reduction="none")

    def measure(self) -> Measurement:
        return ClassMeasurement(self.outputs)

    def check_targets(self, targets: Tensor, where: str) -> None:
        size = self.outputs.size
        assert size is not None
        if targets.ndim != 1 or targets.dtype != torch.int64:
            raise DataError(
                f"{where}: the targets of a classification are int64 (N,), the numbers of the classes; these "
                f"are {described(targets)}"
            )
        wrong = ((targets < 0) | (targets >= size)).nonzero()[:, 0]
        if len(wrong):
            values = sorted(set(targets[wrong].tolist()))
            listed = ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")
            raise DataError(
                f"{where}: {len(wrong):,} of {len(targets):,} targets are not the number of a class, 0 to "
                f"{size - 1}: {listed} (the first is example {int(wrong[0])}); number the classes from 0"
            )


class ClassMeasurement(Measurement):
    """Accuracy and balanced accuracy in [0, 1], and mean cross-entropy in nats.

    Balanced accuracy is the mean recall of the classes that have examples.
    """

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._count, self._correct, self._loss = 0, 0, 0.0
        self._targets: list[Tensor] = []
        self._predicted: list[Tensor] = []

    def add(self, output: Tensor, targets: Tensor) -> None:
        predicted = output.argmax(1)
        self._count += len(targets)
        self._correct += int((predicted == targets).sum())
        self._loss += float(functional.cross_entropy(output.float(), targets, reduction="none").sum())
        self._targets.append(targets)
        self._predicted.append(predicted)

    def metrics(self) -> dict[str, float]:
        return {
            "accuracy": self._correct / self._count,
            "balanced_accuracy": self._counts().balanced_accuracy(),
            "loss": self._loss / self._count,
        }

    def documents(self) -> Mapping[str, str]:
        return self._counts().documents()

    def _counts(self) -> ClassCounts:
        true, predicted = torch.cat(self._targets).numpy(), torch.cat(self._predicted).numpy()
        size = self._outputs.size
        assert size is not None
        further = range(size, int(predicted.max()) + 1)  # of a head of the task's own
        names = (*output_names(size, self._outputs.names), *map(str, further))
        return ClassCounts.of(true, predicted, names)


def described(targets: Tensor) -> str:
    """``float32 (100, 3)``"""
    return f"{str(targets.dtype).removeprefix('torch.')} {tuple(targets.shape)}"
