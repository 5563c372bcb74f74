"""What a task predicts."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import attrs
from torch import Tensor

from sidetune_core.interfaces.former_names import warn_of_former

OutputKind = Literal["logits", "binary", "regression"]

FORMER_KINDS = {"scores": "logits", "numbers": "regression"}


@attrs.frozen(eq=False)
class Outputs:
    """The outputs of a task's head along axis 1: ``logits`` of classes, of which one applies; ``binary``
    logits of labels, each of which applies or does not; or values to regress (``regression``).

    Compares equal to its `kind` as a text until version 0.3, when `Task.outputs` was one.
    """

    kind: OutputKind = attrs.field(default="logits", validator=attrs.validators.in_(get_args(OutputKind)))
    size: int | None = None
    """Number of classes, labels or values; None if it is not declared."""
    names: tuple[str, ...] = ()
    """Names of the classes, labels or values, in order; empty if there are none."""

    def __attrs_post_init__(self) -> None:
        if self.names and self.size not in (None, len(self.names)):
            raise ValueError(f"{self.size} outputs have {len(self.names)} names")

    @classmethod
    def of_classes(cls, names: int | tuple[str, ...]) -> Outputs:
        """Logits of classes, by their number or their names."""
        return cls("logits", names) if isinstance(names, int) else cls("logits", len(names), names)

    @property
    def is_regression(self) -> bool:
        """Whether they are values, and no logits."""
        return self.kind == "regression"

    @property
    def is_binary(self) -> bool:
        """Whether each is the logit of a label of its own."""
        return self.kind == "binary"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            warn_of_former(f"the comparison of Task.outputs with '{other}'", "Task.outputs.kind")
            return FORMER_KINDS.get(other, other) == self.kind
        return isinstance(other, Outputs) and attrs.astuple(self) == attrs.astuple(other)

    def __hash__(self) -> int:
        return hash(attrs.astuple(self))


class OutputsMember:
    """The data descriptor of `Task.outputs`. It also takes a kind as a text, as in version 0.1, with a
    warning.
    """

    def __init__(self, default: Outputs | None = None) -> None:
        self.default = default or Outputs()

    def __get__(self, instance: object, owner: type[Any]) -> Outputs:
        return self.default if instance is None else vars(instance).get("outputs", self.default)

    def __set__(self, instance: object, value: Outputs | str) -> None:
        vars(instance)["outputs"] = as_outputs(value)


def as_outputs(value: Outputs | str) -> Outputs:
    """The outputs that a former kind as a text stands for."""
    if isinstance(value, Outputs):
        return value
    warn_of_former(f"Task.outputs '{value}'", f"Outputs('{FORMER_KINDS.get(value, value)}', size)")
    return Outputs(FORMER_KINDS.get(value, value))  # type: ignore[arg-type]


def broken_rows(output: Tensor, outputs: Outputs) -> Tensor:
    """Which rows (B,) of an output (B, ...) are not finite, on the output's device.

    A logit of -inf is a class that is masked: it counts as finite where another class of the same prediction,
    along axis 1, has a finite logit. Labels that are independent of one another have no such rule.
    """
    finite = output.isfinite()
    if outputs.kind != "logits" or output.ndim < 2:
        return ~_all(finite)
    masked = output == -math.inf
    return ~(_all(finite | masked) & _all(finite.any(1)))


def _all(holds: Tensor) -> Tensor:
    """Whether all of each row (B, ...) holds, (B,)."""
    return holds.flatten(1).all(1) if holds.ndim > 1 else holds
