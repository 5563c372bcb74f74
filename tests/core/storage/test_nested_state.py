"""Nested values as JSON and tensors."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from sidetune_core.errors import PluginError
from sidetune_core.storage.nested_state import flatten, tensor_names, unflatten

ONE = torch.ones(2)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        float("inf"),
        "text",
        [],
        {},
        (),
        [1, (2, "a")],
        {"a": {1: [None]}, 2: ()},
        {"tensor": {"tuple": 1}},
    ],
)
def test_plain_values_come_back_through_json(value: Any) -> None:
    plain, tensors = flatten(value)
    back = unflatten(json.loads(json.dumps(plain, allow_nan=False)), tensors)
    assert back == value
    assert type(back) is type(value)


def test_tensors_are_named_by_the_way_to_them() -> None:
    plain, tensors = flatten({"a": [ONE, {"b": ONE + 1}], 7: ONE + 2}, "state")
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "state/a/0": [1, 1],
        "state/a/1/b": [2, 2],
        "state/7": [3, 3],
    }
    assert tensor_names(plain) == set(tensors)
    back = unflatten(json.loads(json.dumps(plain)), tensors)
    assert torch.equal(back["a"][1]["b"], ONE + 1)
    assert torch.equal(back[7], ONE + 2)


def test_names_that_would_be_the_same_are_told_apart() -> None:
    plain, tensors = flatten({"a/b": ONE, "a": {"b": ONE + 1}})
    assert unflatten(plain, tensors)["a"]["b"].tolist() == [2, 2]
    assert unflatten(plain, tensors)["a/b"].tolist() == [1, 1]


@pytest.mark.parametrize("value", [{1.5: 2}, object(), {"a": [b"bytes"]}, {1, 2}])
def test_anything_else_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(PluginError, match=r"state.* holds a \w+, which cannot be written to a checkpoint"):
        flatten(value, "state")


def test_a_tensor_that_is_missing_is_noticed() -> None:
    plain, _ = flatten([ONE])
    with pytest.raises(KeyError):
        unflatten(plain, {})
