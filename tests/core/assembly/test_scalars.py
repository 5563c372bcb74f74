"""Numbers that plugins return."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sidetune_core.assembly.scalars import as_numbers
from sidetune_core.errors import PluginError


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5])], ids=repr
)
def test_numbers_become_floats(value: object) -> None:
    numbers = as_numbers({"accuracy": value}, "evaluate()")
    assert numbers == {"accuracy": 0.5}
    assert type(numbers["accuracy"]) is float


def test_integers_stay_and_so_does_nan() -> None:
    count, loss = as_numbers({"count": 8, "loss": np.float32("nan")}, "evaluate()").values()
    assert type(count) is int
    assert math.isnan(loss)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "None, which is no number"),
        ("0.5", "an object of type str, which is no number"),
        (torch.zeros(2), "an object of type Tensor, which is no number"),
        (1j, "an object of type complex, which is no number"),
        (10**400, "an integer that is too large for a float"),
        (10**5000, "an integer that is too large for a float"),
    ],
    ids=["None", "text", "tensor", "complex", "large", "too long to print"],
)
def test_what_is_no_number_is_named(value: object, problem: str) -> None:
    with pytest.raises(PluginError, match=rf"^evaluate\(\) has returned, as 'accuracy', {problem}"):
        as_numbers({"accuracy": value}, "evaluate()")


@pytest.mark.parametrize("values", [None, "accuracy", [0.5], {1: 0.5}])
def test_what_is_no_mapping_from_names_is_named(values: object) -> None:
    with pytest.raises(PluginError, match=r"evaluate\(\) has returned "):
        as_numbers(values, "evaluate()")
