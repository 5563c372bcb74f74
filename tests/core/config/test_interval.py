"""How often a run writes down where it is."""

from __future__ import annotations

import pytest

from sidetune_core.config.interval import Interval, interval
from sidetune_core.errors import OptionError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200", Interval(steps=200)),
        ("30s", Interval(seconds=30)),
        ("0.5s", Interval(seconds=0.5)),
        ("none", Interval()),
        ("0", Interval()),
        ("0s", Interval()),
    ],
)
def test_steps_seconds_or_never(text: str, expected: Interval) -> None:
    assert interval(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "2.5", "5m", "often", "0.0s", "1e3"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(
        OptionError, match=r"--save-every .*: expected steps \(200\), seconds \(30s\) or none"
    ):
        interval(text)


def test_it_is_over_when_as_many_steps_or_seconds_have_passed() -> None:
    assert [Interval(steps=3).over(steps, 1e9) for steps in (2, 3)] == [False, True]
    assert [Interval(seconds=3).over(10**9, seconds) for seconds in (2.9, 3.0)] == [False, True]
    assert not Interval().over(10**9, 1e9)
