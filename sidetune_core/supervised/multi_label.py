"""The objective of several independent labels, of which any number applies to an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from sidetune_core.errors import DataError
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.interfaces.predictions import output_names
from sidetune_core.supervised.class_metrics import CLASSES, ClassMetrics, classes_csv
from sidetune_core.supervised.objectives import Measurement, Objective, as_outputs_of, described


def _label_outputs(given: Outputs | int | Sequence[str]) -> Outputs:
    return as_outputs_of("binary", given)


@attrs.frozen(eq=False)
class MultiLabel(Objective):
    """Each of K labels applies or does not: binary cross-entropy of K logits, mean over the labels of an
    example; targets (B, K) are 0 or 1.

    R records ``map``, the mean over labels of the average precision.

    Args:
        outputs: the number of labels, their names, or `Outputs`.
        metric: see `Objective`.
        higher_is_better: see `Objective`.
    """

    outputs: Outputs = attrs.field(converter=_label_outputs)
    metric: str = "map"
    higher_is_better: bool = True

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return _entropies(output, targets).mean(1)

    def negative_log_likelihood(self, output: Tensor, targets: Tensor) -> Tensor:
        return _entropies(output, targets).sum(1)

    def measure(self) -> Measurement:
        return LabelMeasurement(self.outputs)

    def check_targets(self, targets: Tensor, where: str) -> None:
        size = self.outputs.size
        if targets.ndim != 2 or targets.shape[1] != size or targets.is_complex():
            raise DataError(
                f"{where}: the targets of {size} labels are numbers (N, {size}), 1 where a label applies and "
                f"0 where not; these are {described(targets)}"
            )
        wrong = ((targets != 0) & (targets != 1)).any(1).nonzero()[:, 0]
        if len(wrong):
            value = next(value for value in targets[wrong[0]].tolist() if value not in (0, 1))
            raise DataError(
                f"{where}: {len(wrong):,} of {len(targets):,} targets have values other than 0 and 1 "
                f"(example {int(wrong[0])} has {value:g})"
            )


class LabelMeasurement(Measurement):
    """Metrics of K labels:

    - ``map``: mean over labels of the average precision, the area under the curve of precision and recall;
    - ``f1``: mean over labels of F1, where a label is predicted with a probability of more than 0.5;
    - ``accuracy``: fraction of the decisions, one for each example and label, that are right;
    - ``loss``: binary cross-entropy in nats, mean over examples and labels.

    ``map`` and ``f1`` leave out labels that apply to no example, for which neither is defined; without any
    label they are NaN.
    """

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._loss = 0.0
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, output: Tensor, targets: Tensor) -> None:
        self._loss += float(_entropies(output, targets).mean(1).sum())
        self._logits.append(output.float())
        self._targets.append(targets.bool())

    def metrics(self) -> dict[str, float]:
        logits, targets = torch.cat(self._logits), torch.cat(self._targets)
        present = targets.any(0).nonzero()[:, 0].tolist()
        classes = self._classes()
        return {
            "map": _mean([_average_precision(logits[:, k], targets[:, k]) for k in present]),
            "f1": _mean([classes[k].f1 or 0.0 for k in present]),
            "accuracy": float(((logits > 0) == targets).double().mean()),
            "loss": self._loss / len(targets),
        }

    def documents(self) -> Mapping[str, str]:
        return {CLASSES: classes_csv(self._classes())}

    def _classes(self) -> list[ClassMetrics]:
        targets, predicted = torch.cat(self._targets), torch.cat(self._logits) > 0
        totals = [counts.sum(0).tolist() for counts in (targets, targets & predicted, predicted)]
        names = output_names(targets.shape[1], self._outputs.names)
        return [ClassMetrics(name, *numbers) for name, *numbers in zip(names, *totals, strict=True)]


def _entropies(output: Tensor, targets: Tensor) -> Tensor:
    """(B, K)"""
    return functional.binary_cross_entropy_with_logits(output.float(), targets.float(), reduction="none")


def _average_precision(scores: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import average_precision_score  # importing it takes a second

    return float(average_precision_score(targets.numpy(), scores.numpy()))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
