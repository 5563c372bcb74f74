"""Outputs of a learner that are not finite: no metric is computed from them, and no policy acts on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sidetune_core.errors import Diverged
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.outputs import Outputs, broken_rows
from sidetune_core.interfaces.tasks import Predict, Task


class FiniteCheck:
    """A `Predict` that counts the examples with outputs that are not finite. It adds no synchronisation with
    the device while examples are predicted.

    Args:
        predict: the learner's output.
        outputs: of the task.
    """

    def __init__(self, predict: Predict, outputs: Outputs) -> None:
        self._predict, self._outputs = predict, outputs
        self.examples = 0
        """Number of examples that were predicted."""
        self._broken: Tensor | None = None

    def __call__(self, inputs: Inputs) -> Tensor:
        output = self._predict(inputs)
        self.examples += len(output)
        # a sum is finite only if all terms are, and takes a fraction of the time of isfinite() on a CPU
        if output.device.type != "cpu" or not output.sum().isfinite():
            broken = broken_rows(output, self._outputs).sum()
            self._broken = broken if self._broken is None else self._broken + broken
        return output

    @property
    def reason(self) -> str:
        """``outputs of 3 of 200 examples are not finite``; empty if all are."""
        count = int(self._broken) if self._broken is not None else 0
        return f"outputs of {count} of {self.examples} examples are not finite" if count else ""


def require_finite(output: Tensor, task: Task) -> Tensor:
    """The output (B, ...) for inputs that a task trains on, such as those of a rollout.

    Raises:
        Diverged: it is not finite.
    """
    if not math.isfinite(float(output.sum())):  # it is if all terms are, unless it overflows
        count = int(torch.count_nonzero(broken_rows(output, task.outputs)))
        if count:
            raise Diverged(
                f"the outputs for {count} of {len(output)} training inputs of task {task.id} ({task.title}) "
                "are not finite"
            )
    return output
