"""The targets of a dataset: found without reading its inputs where possible, and encoded for an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from sidetune_core.errors import OptionError
from sidetune_core.supervised.dataset_examples import BadExample
from sidetune_core.supervised.multi_label import MultiLabel
from sidetune_core.supervised.objectives import Classification, Objective
from sidetune_core.supervised.regression import Regression
from sidetune_core.supervised.sampling import ClassWeights, class_weights

Label = int | str


def stored_targets(dataset: Any) -> Sequence[Any] | Tensor | None:
    """The targets of all examples that a dataset keeps apart from its inputs; None if it keeps none.

    These are the last tensor of a `TensorDataset` of two, ``targets`` or ``labels`` of any other, and those
    of the datasets in a `Subset` or `ConcatDataset`.
    """
    if isinstance(dataset, Subset):
        inner = stored_targets(dataset.dataset)
        return None if inner is None else [inner[row] for row in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [stored_targets(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return [target for part in known for target in part] if len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1] if len(dataset.tensors) == 2 else None
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if isinstance(values, Sequence | Tensor | np.ndarray) and not isinstance(values, str):
            return values if len(values) == len(dataset) else None  # type: ignore[return-value]
    return None


def same_target(first: Any, second: Any) -> bool:
    """Whether two targets are equal, in whatever types."""
    try:
        return bool(np.array_equal(np.asarray(first), np.asarray(second)))
    except (TypeError, ValueError):
        return False


class Coder(ABC):
    """Encodes targets for an objective; a plain object that worker processes may have."""

    @abstractmethod
    def plain(self, target: Any) -> int | list[float]:
        """The target of an example: the number of its class, or values.

        Raises:
            BadExample: it is none of this objective.
        """

    def encode(self, target: Any) -> Tensor:
        """`plain` as a tensor."""
        return torch.tensor(self.plain(target))

    @abstractmethod
    def objective(self, targets: Tensor | None, weights: ClassWeights) -> Objective:
        """The objective, for the training targets; None where these are not known beforehand.

        Raises:
            OptionError: class weights are asked for that it has not.
        """


@attrs.frozen
class ClassCoder(Coder):
    """Classes 0, 1, … by label, in order."""

    table: Mapping[Label, int]
    names: tuple[str, ...]

    def plain(self, target: Any) -> int:
        label = plain_label(target)
        if label not in self.table:
            raise BadExample(f"its label {label!r} is none of the {len(self.names)} classes")
        return self.table[label]

    def objective(self, targets: Tensor | None, weights: ClassWeights) -> Objective:
        if targets is None:
            if weights != "none":
                raise OptionError(
                    "class_weights needs the number of examples of each class: use a map-style dataset"
                )
            return Classification(self.names)
        return Classification(self.names, class_weights(targets, len(self.names), weights))


@attrs.frozen
class LabelCoder(Coder):
    """Any number of labels: a vector of 0 and 1, or the names or numbers of those that apply."""

    names: tuple[str, ...]

    def plain(self, target: Any) -> list[float]:
        count = len(self.names)
        if isinstance(target, list | tuple | set | frozenset) and all(isinstance(one, str) for one in target):
            unknown = [one for one in target if one not in self.names]
            if unknown:
                raise BadExample(f"its label {unknown[0]!r} is none of the {count} labels")
            return [float(name in target) for name in self.names]
        if isinstance(target, set | frozenset):
            raise BadExample("a set of labels has names; give numbers as a vector of 0 and 1")
        vector = as_vector(target)
        if tuple(vector.shape) != (count,):
            raise BadExample(
                f"its target has shape {tuple(vector.shape)}; expected {count} values of 0 or 1, "
                "one for each "
                "label, or the names of those that apply"
            )
        if not bool(((vector == 0) | (vector == 1)).all()):
            raise BadExample("its target has values other than 0 and 1")
        return as_list(vector)

    def objective(self, targets: Tensor | None, weights: ClassWeights) -> Objective:
        _no_weights(weights, "labels")
        return MultiLabel(self.names)


@attrs.frozen
class ValueCoder(Coder):
    """Values to regress."""

    names: tuple[str, ...]
    """Empty if they have none."""
    count: int

    def plain(self, target: Any) -> list[float]:
        vector = as_vector(target).reshape(-1)
        if len(vector) != self.count:
            raise BadExample(f"its target has {len(vector)} values, expected {self.count}")
        if not bool(vector.isfinite().all()):
            raise BadExample("its target is NaN or infinite")
        return as_list(vector)

    def objective(self, targets: Tensor | None, weights: ClassWeights) -> Objective:
        _no_weights(weights, "values")
        return Regression(self.names or self.count)


def _no_weights(weights: ClassWeights, kind: str) -> None:
    if weights != "none":
        raise OptionError(f"class_weights is for classes, and this task has {kind}: leave it out")


def plain_label(target: Any) -> Label:
    """A label as an int or a text.

    Raises:
        BadExample: it is something else.
    """
    if isinstance(target, Tensor | np.ndarray | np.generic):
        if target.size != 1 if not isinstance(target, Tensor) else target.numel() != 1:
            raise BadExample(
                f"its target has shape {tuple(target.shape)}; a class is an integer or a name (for several "
                "labels pass labels=[...], for values values=...)"
            )
        target = target.item()
    if isinstance(target, str):
        return target
    if isinstance(target, bool | int) or (isinstance(target, float) and target.is_integer()):
        return int(target)
    raise BadExample(
        f"its target is {_short(target)}; a class is an integer or a name (for several labels pass "
        "labels=[...], for values values=...)"
    )


def as_vector(target: Any) -> Tensor:
    """Numbers as float32.

    Raises:
        BadExample: it has others.
    """
    try:
        vector = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadExample(f"its target is {_short(target)}, expected numbers") from error
    if vector.is_complex():
        raise BadExample("its target is complex, expected real numbers")
    return vector.detach().cpu().float()


def as_list(vector: Tensor) -> list[float]:
    """The values of a vector (K,)."""
    values: list[float] = vector.tolist()
    return values


def _short(value: Any) -> str:
    text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 60 else f"{text[:59]}…"
