"""How two nested values differ."""

from __future__ import annotations

import pytest

from sidetune_core.config.differences import Difference, differences, flatten, merged, unflatten
from sidetune_core.errors import shorten


def test_differences_have_dotted_names_and_both_values() -> None:
    first = {"seed": 1, "train": {"lr": 0.1, "steps": 3}}
    second = {"seed": 1, "train": {"lr": 0.2}}
    assert differences(first, second) == [
        Difference("train.lr", 0.1, 0.2),
        Difference("train.steps", 3, None),
    ]


def test_a_transparent_table_has_no_name() -> None:
    first, second = ({"learner": {"options": {"coef": value}}} for value in (1, 2))
    assert differences(first, second, {"options"}) == [Difference("learner.coef", 1, 2)]


def test_equal_values_have_no_differences() -> None:
    assert differences({"a": {"b": [1]}}, {"a": {"b": [1]}}) == []


def test_values_that_are_no_tables_are_compared_as_one() -> None:
    assert differences(1, {"a": 2}) == [Difference("", 1, None), Difference("a", None, 2)]


def test_flattened_tables_come_back() -> None:
    nested = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert unflatten(flatten(nested)) == nested


def test_merging_descends_into_tables_and_changes_neither_argument() -> None:
    first, second = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}
    assert merged(first, second) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert first == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("names", "text"), [("", ""), ("ab", "a, b"), ("abc", "a, b, c"), ("abcde", "a, b, c and 2 more")]
)
def test_long_lists_of_names_are_shortened(names: str, text: str) -> None:
    assert shorten(names, 3) == text
