"""What tasks predict for an example: a class, labels, values, or a map. Each is a `Prediction`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@attrs.frozen
class ClassPrediction:
    """The most probable class, and the probabilities of all."""

    label: str
    probability: float
    probabilities: Mapping[str, float]
    """Of each class by name, in the order of the task's outputs."""

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, the most probable first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:k]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "label": self.label,
            "probability": self.probability,
            "probabilities": dict(self.probabilities),
        }

    def __str__(self) -> str:
        return f"{self.label} {self.probability:.2f}"


@attrs.frozen
class LabelsPrediction:
    """The labels that apply, and the probabilities of all, each independent of the others."""

    labels: tuple[str, ...]
    """Those with a probability of more than 0.5, the most probable first."""
    probabilities: Mapping[str, float]
    """Of each label by name, in the order of the task's outputs."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"labels": [*self.labels], "probabilities": dict(self.probabilities)}

    def __str__(self) -> str:
        return ", ".join(f"{name} {self.probabilities[name]:.2f}" for name in self.labels) or "no label"


@attrs.frozen
class ValuesPrediction:
    """Values of a regression."""

    values: Mapping[str, float]
    """By name, in the order of the task's outputs."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"values": dict(self.values)}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())


@attrs.frozen(eq=False)
class MapPrediction:
    """Values for each pixel."""

    values: NDArray[np.float32]
    """(C, H, W)"""
    unit: str = ""
    names: tuple[str, ...] = ()
    """Of the channels, in order; empty if they have none."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``values`` are nested lists."""
        return {"values": self.values.tolist(), "unit": self.unit, "names": [*self.names]}

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.values.shape))
        low, high = float(self.values.min()), float(self.values.max())
        return f"map {shape}, {low:.4g} to {high:.4g}{' ' + self.unit if self.unit else ''}"


def class_predictions(logits: Tensor, names: Sequence[str] = ()) -> list[ClassPrediction]:
    """Predictions from logits (B, C); a logit of -inf is a class with probability 0.

    Args:
        logits: of each example.
        names: of the classes in order; without them they are called ``0``, ``1``, …

    Raises:
        ValueError: the logits have another shape.
    """
    if logits.ndim != 2 or (names and len(names) != logits.shape[1]):
        raise ValueError(f"logits of {len(names) or 'some'} classes have shape {tuple(logits.shape)}")
    labels = output_names(logits.shape[1], names)
    probabilities = logits.double().softmax(1)
    return [
        ClassPrediction(labels[best], row[best], dict(zip(labels, row, strict=True)))
        for best, row in zip(probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True)
    ]


def label_predictions(logits: Tensor, names: Sequence[str] = ()) -> list[LabelsPrediction]:
    """Predictions from the logits (B, K) of independent labels.

    Args:
        logits: of each example.
        names: of the labels in order; without them they are called ``0``, ``1``, …

    Raises:
        ValueError: the logits have another shape.
    """
    if logits.ndim != 2 or (names and len(names) != logits.shape[1]):
        raise ValueError(f"logits of {len(names) or 'some'} labels have shape {tuple(logits.shape)}")
    labels = output_names(logits.shape[1], names)
    predictions = []
    for row in logits.double().sigmoid().tolist():
        probabilities = dict(zip(labels, row, strict=True))
        applying = sorted(
            (name for name in labels if probabilities[name] > 0.5), key=lambda n: -probabilities[n]
        )
        predictions.append(LabelsPrediction(tuple(applying), probabilities))
    return predictions


def output_names(count: int, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Distinct names of a task's outputs: ``0``, ``1``, … where it has none. The number is added to a name
    that several outputs have.
    """
    if not names:
        return tuple(map(str, range(count)))
    uses = Counter(names)
    return tuple(f"{name} ({number})" if uses[name] > 1 else name for number, name in enumerate(names))
