"""The objective of values to regress."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.errors import DataError
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.supervised.objectives import Measurement, Objective, as_outputs_of, described


def _value_outputs(given: Outputs | int | Sequence[str]) -> Outputs:
    return as_outputs_of("regression", given)


@attrs.frozen(eq=False)
class Regression(Objective):
    """K values: squared error, mean over the values of an example; targets are (B, K), or (B,) for one value.

    R records ``rmse``, in the unit of the targets. The targets are used as they are: values of very different
    ranges, or far from 0, are better standardised first, since the largest dominate the loss and a head
    starts near 0.

    Args:
        outputs: the number of values, their names, or `Outputs`.
        metric: see `Objective`.
        higher_is_better: see `Objective`.
    """

    outputs: Outputs = attrs.field(converter=_value_outputs)
    metric: str = "rmse"
    higher_is_better: bool = False

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return (output.float() - _as_columns(targets).float()).square().mean(1)

    def measure(self) -> Measurement:
        return ValueMeasurement()

    def check_targets(self, targets: Tensor, where: str) -> None:
        size = self.outputs.size
        shape = tuple(targets.shape[1:])
        if targets.is_complex() or (shape != (size,) and not (size == 1 and shape == ())):
            raise DataError(
                f"{where}: the targets of a regression of {size} values are numbers (N, {size}); these are "
                f"{described(targets)}"
            )
        wrong = (~_as_columns(targets).isfinite()).any(1).nonzero()[:, 0]
        if len(wrong):
            raise DataError(
                f"{where}: {len(wrong):,} of {len(targets):,} targets are NaN or infinite (the first is "
                f"example {int(wrong[0])})"
            )


class ValueMeasurement(Measurement):
    """Metrics of K values, each over all examples and values:

    - ``rmse``: root of the mean squared error;
    - ``mae``: mean absolute error;
    - ``r2``: coefficient of determination, mean over the values that are not constant in the split; left
      out if all are;
    - ``loss``: mean squared error.

    Sums are in float64, about the targets of the first example, so that large offsets cost no digits.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: Tensor | None = None
        self._origin = torch.zeros(0)

    def add(self, output: Tensor, targets: Tensor) -> None:
        predicted, expected = output.double(), _as_columns(targets).double()
        if self._sums is None:
            self._origin = expected[:1].clone()
            self._sums = torch.zeros(4, expected.shape[1], dtype=torch.float64)
        error, centred = predicted - expected, expected - self._origin
        self._sums += torch.stack(
            [error.square().sum(0), error.abs().sum(0), centred.sum(0), centred.square().sum(0)]
        )
        self._count += len(expected)

    def metrics(self) -> dict[str, float]:
        assert self._sums is not None
        squared, absolute, total, total_squared = self._sums / self._count
        variance = total_squared - total.square()
        # rounding leaves about 1e-16 of the second moment of a constant value that is not 0
        varies = variance > 1e-12 * total_squared
        metrics = {
            "rmse": float(squared.mean().sqrt()),
            "mae": float(absolute.mean()),
            "loss": float(squared.mean()),
        }
        if varies.any():
            metrics["r2"] = float((1 - squared[varies] / variance[varies]).mean())
        return metrics


def _as_columns(targets: Tensor) -> Tensor:
    """(B, K)"""
    return targets[:, None] if targets.ndim == 1 else targets
