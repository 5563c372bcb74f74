"""Outputs of a learner that are not finite: no metric is computed from them, and no policy acts on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sidetune_core.errors import Diverged
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.interfaces.tasks import Predict, Task


def broken_rows(output: Tensor, outputs: Outputs) -> Tensor:
    """Which rows (B,) of an output (B, ...) are not finite, on the output's device.

    A logit of -inf is a class that is masked: it counts as finite where another class of the same prediction,
    along axis 1, has a finite logit.
    """
    finite = output.isfinite()
    if outputs.is_regression or output.ndim < 2:
        return ~_all(finite)
    masked = output == -math.inf
    return ~(_all(finite | masked) & _all(finite.any(1)))


def _all(holds: Tensor) -> Tensor:
    """Whether all of each row (B, ...) holds, (B,)."""
    return holds.flatten(1).all(1) if holds.ndim > 1 else holds


class FiniteCheck:
    """A `Predict` that counts the examples with outputs that are not finite. It adds no synchronisation with
    the device while examples are predicted.

    Args:
        predict: the learner's output.
        outputs: of the task.
    """

    def __init__(self, predict: Predict, outputs: Outputs) -> None:
        self._predict, self._outputs = predict, outputs
        self._examples = 0
        self._broken: Tensor | None = None

    def __call__(self, inputs: Inputs) -> Tensor:
        output = self._predict(inputs)
        self._examples += len(output)
        # a sum is finite only if all terms are, and takes a fraction of the time of isfinite() on a CPU
        if output.device.type != "cpu" or not output.sum().isfinite():
            broken = broken_rows(output, self._outputs).sum()
            self._broken = broken if self._broken is None else self._broken + broken
        return output

    @property
    def reason(self) -> str:
        """``outputs of 3 of 200 examples are not finite``; empty if all are."""
        count = int(self._broken) if self._broken is not None else 0
        return f"outputs of {count} of {self._examples} examples are not finite" if count else ""


def require_finite(output: Tensor, task: Task) -> Tensor:
    """The output (B, ...) for inputs that a task trains on, such as those of a rollout.

    Raises:
        Diverged: it is not finite.
    """
    if not output.sum().isfinite():  # it is if all terms are, unless it overflows
        count = int(torch.count_nonzero(broken_rows(output, task.outputs)))
        if count:
            raise Diverged(
                f"the outputs for {count} of {len(output)} training inputs of task {task.id} ({task.title}) "
                "are not finite"
            )
    return output
