"""Which outputs count as not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sidetune_core.api import Inputs, Outputs
from sidetune_core.assembly.finite import FiniteCheck, require_finite
from sidetune_core.errors import Diverged
from sidetune_core.interfaces.outputs import broken_rows
from sidetune_core.testing import sample

NAN, INF = math.nan, math.inf
LOGITS, REGRESSION = Outputs("logits"), Outputs("regression")


@pytest.mark.parametrize(
    ("row", "is_broken"),
    [
        ([0.0, 1.0], False),
        ([NAN, 1.0], True),
        ([INF, 1.0], True),
        ([-INF, 1.0], False),  # a masked class
        ([-INF, -INF], True),
        ([-INF, NAN], True),
    ],
)
def test_logits_are_broken_unless_a_class_is_left(row: list[float], is_broken: bool) -> None:
    assert broken_rows(torch.tensor([row, [1.0, 2.0]]), LOGITS).tolist() == [is_broken, False]


def test_every_pixel_needs_a_class() -> None:
    output = torch.zeros(3, 2, 4, 4)
    output[0, 0] = -INF
    output[1, :, 2, 2] = -INF
    assert broken_rows(output, LOGITS).tolist() == [False, True, False]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4)])
def test_values_to_regress_are_finite(value: float, shape: tuple[int, ...]) -> None:
    output = torch.zeros(shape)
    output[1] = value
    assert broken_rows(output, REGRESSION).tolist() == [False, True, False]


def test_no_rows_are_not_broken() -> None:
    assert broken_rows(torch.zeros(0, 2), LOGITS).tolist() == []


def test_no_label_of_several_is_masked() -> None:
    output = torch.tensor([[0.0, -math.inf], [1.0, 2.0]])
    assert broken_rows(output, Outputs("binary", 2)).tolist() == [True, False]


def test_a_check_counts_over_batches_and_returns_outputs_as_they_are() -> None:
    outputs = iter([torch.zeros(4, 2), torch.tensor([[NAN, 0.0], [0.0, INF]]), torch.full((1, 2), NAN)])
    check = FiniteCheck(lambda inputs: next(outputs), LOGITS)
    seen = [check(Inputs({})) for _ in range(3)]
    assert check.reason == "outputs of 3 of 7 examples are not finite"
    assert seen[1].isnan().any()


def test_a_check_of_finite_outputs_has_no_reason() -> None:
    check = FiniteCheck(lambda inputs: torch.zeros(4, 2), LOGITS)
    check(Inputs({}))
    assert check.reason == ""


def test_large_outputs_whose_sum_is_infinite_are_finite() -> None:
    check = FiniteCheck(lambda inputs: torch.full((4, 2), 3e38), REGRESSION)
    assert check(Inputs({})).sum().isinf()
    assert check.reason == ""


def test_outputs_that_training_needs_are_finite() -> None:
    task = sample.tasks()[0]

    def outputs(value: float) -> Tensor:
        return torch.tensor([[0.0, 1.0], [0.0, value]])

    assert require_finite(outputs(-INF), task).shape == (2, 2)
    with pytest.raises(Diverged, match=r"the outputs for 1 of 2 training inputs of task t0 \(task 0\) are"):
        require_finite(outputs(NAN), task)
