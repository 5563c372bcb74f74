"""Values to regress, against scikit-learn."""

from __future__ import annotations

import pytest
import torch
from sklearn import metrics
from torch import Tensor

from sidetune_core.errors import DataError
from sidetune_core.supervised.regression import Regression


def measured(output: Tensor, targets: Tensor) -> dict[str, float]:
    measurement = Regression(output.shape[1]).measure()
    for part in (slice(7), slice(7, len(output))):
        measurement.add(output[part], targets[part])
    return measurement.metrics()


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_metrics_are_those_of_scikit_learn(offset: float, generator: torch.Generator) -> None:
    targets = torch.randn(50, 2, generator=generator, dtype=torch.float64) + offset
    output = targets + torch.randn(50, 2, generator=generator, dtype=torch.float64) / 2
    values = measured(output, targets)
    assert values["rmse"] == pytest.approx(metrics.mean_squared_error(targets, output) ** 0.5)
    assert values["mae"] == pytest.approx(metrics.mean_absolute_error(targets, output))
    assert values["r2"] == pytest.approx(metrics.r2_score(targets, output))
    assert values["loss"] == pytest.approx(metrics.mean_squared_error(targets, output))


def test_r2_leaves_out_values_that_are_constant(generator: torch.Generator) -> None:
    targets = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    targets[:, 1] = 1234.5
    output = targets + torch.randn(50, 2, generator=generator)
    assert measured(output, targets)["r2"] == pytest.approx(metrics.r2_score(targets[:, 0], output[:, 0]))
    assert "r2" not in measured(output[:, 1:], targets[:, 1:])


def test_one_value_may_have_targets_without_an_axis_for_it() -> None:
    output, targets = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 0.0, 6.0])
    objective = Regression(1)
    objective.check_targets(targets, "of mine")
    assert objective.loss(output, targets).tolist() == [0, 4, 9]
    assert measured(output, targets)["mae"] == pytest.approx(5 / 3)


def test_the_loss_is_the_mean_squared_error_of_an_example() -> None:
    loss = Regression(("x", "y")).loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    assert loss.tolist() == [2.5]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(3), r"of 2 values are numbers \(N, 2\); these are float32 \(3,\)"),
        (torch.tensor([[0, 1], [float("inf"), 0], [0, float("nan")]]), r"2 of 3 targets are NaN or infinite"),
    ],
)
def test_targets_that_are_no_values_are_an_error(targets: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=f"of mine: .*{message}"):
        Regression(2).check_targets(targets, "of mine")
