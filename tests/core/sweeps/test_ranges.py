"""Ranges of options as they are typed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidetune_core.errors import OptionError
from sidetune_core.sweeps.ranges import Choices, Fixed, Range, for_option, from_json, parse_axis, to_json

numbers = st.floats(1e-12, 1e12)


@given(numbers, numbers, st.booleans())
def test_a_range_is_read_as_it_is_shown(one: float, other: float, log: bool) -> None:
    low, high = sorted((one, other))
    axis = Range(low, high, log)
    if low == high:
        with pytest.raises(OptionError, match="the low end comes first"):
            parse_axis("train.lr", [str(axis)])
        return
    assert parse_axis("train.lr", [str(axis)]) == axis
    assert from_json(to_json(axis)) == axis


@given(st.integers(-1000, 1000), st.integers(1, 1000), st.integers(2, 30))
def test_points_of_a_whole_range_are_whole_and_within_it(low: int, width: int, count: int) -> None:
    axis = parse_axis("side.blocks", [f"{low}..{low + width}:{count}"])
    assert isinstance(axis, Choices)
    points = [int(value) for value in axis.values]
    assert points == sorted(set(points))
    assert (points[0], points[-1]) == (low, low + width)


def test_points_of_a_logarithmic_range_have_equal_ratios() -> None:
    assert parse_axis("train.lr", ["1e-4..1e-2:log:3"]) == Choices(("1e-4", "0.001", "1e-2"))
    axis = parse_axis("train.lr", ["1.0..1e6:log:7"])
    assert isinstance(axis, Choices)
    assert [math.log10(float(value)) for value in axis.values] == pytest.approx(range(7))


@pytest.mark.parametrize(
    ("words", "axis"),
    [
        (("2,4,7",), Choices(("2", "4", "7"))),
        (("2,4..6",), Choices(("2", "4", "5", "6"))),
        (('"a,b",c',), Choices(("a,b", "c"))),
        (("1e-3",), Fixed(("1e-3",))),
        (("../data",), Fixed(("../data",))),
        (("a..b",), Fixed(("a..b",))),
        (("normal", "depth"), Fixed(("normal", "depth"))),
        ((), Fixed(())),
    ],
)
def test_other_values_are_lists_or_fixed(words: tuple[str, ...], axis: Choices | Fixed) -> None:
    assert parse_axis("x.y", words) == axis
    assert from_json(to_json(axis)) == axis


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1..1", "the low end comes first"),
        ("2..1", "the low end comes first; did you mean 1..2?"),
        ("0..1:log", "begins above 0"),
        ("1..2:exp", "not with ':exp'"),
        ("1..2:1", "a range of 2 to 100,000 values, not 1"),
        ("1..1e999", "finite numbers"),
        ("1,,2", "a value of the list is empty"),
    ],
)
def test_a_range_that_is_not_valid_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_axis("train.lr", [text])


def test_an_option_of_floats_takes_a_range_of_whole_ends() -> None:
    axis = parse_axis("learner.coef", ["1..1000:log"])
    assert for_option(axis, "learner.coef", (float,), "float") == Range(1.0, 1000.0, log=True)
    assert for_option(axis, "side.blocks", (int,), "int") == Range(1.0, 1000.0, log=True, whole=True)
    with pytest.raises(OptionError, match="such as 1..2"):
        for_option(parse_axis("side.blocks", ["0.5..1.5"]), "side.blocks", (int,), "int")
    with pytest.raises(OptionError, match="give the values to search, separated by commas"):
        for_option(axis, "train.optimizer", (str,), "adam | sgd")
