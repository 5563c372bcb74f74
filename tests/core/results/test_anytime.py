"""Metrics of evaluations within tasks, against values by hand, brute force and their bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidetune_core.results.anytime import (
    ANYTIME,
    Curves,
    Point,
    average_anytime_accuracy,
    average_minimum_accuracy,
    make_curves,
    stability_gap,
    worst_case_accuracy,
)
from sidetune_core.results.metrics import mean

# Task a is trained to 0.9; while b is, it falls to 0.4 and comes back to 0.7.
WORKED = Curves(
    ("a", "b"),
    (
        Point(0, 0, (0.5, None)),
        Point(0, 2, (0.9, None)),
        Point(1, 0, (0.9, 0.5)),
        Point(1, 1, (0.4, 0.6)),
        Point(1, 2, (0.7, 0.8)),
    ),
    higher_is_better=True,
)


def test_the_worked_curves_have_the_values_of_the_formulas() -> None:
    assert average_minimum_accuracy(WORKED) == 0.4
    assert worst_case_accuracy(WORKED) == pytest.approx(0.8 / 2 + 0.4 / 2)
    assert average_anytime_accuracy(WORKED) == pytest.approx((0.9 + (0.4 + 0.6) / 2 + (0.7 + 0.8) / 2) / 3)
    assert stability_gap(WORKED) == pytest.approx(0.7 - 0.4)


@st.composite
def random_curves(draw: st.DrawFn) -> Curves:
    """Of one to four tasks, with at least one evaluation after a step of each."""
    count, cells = draw(st.integers(1, 4)), st.floats(0, 1, width=16)
    points = [
        Point(stage, step, tuple(draw(cells) if task <= stage else None for task in range(count)))
        for stage in range(count)
        for step in range(draw(st.integers(2, 4)))
    ]
    return Curves(tuple("abcd"[:count]), tuple(points), draw(st.booleans()))


@given(random_curves())
def test_random_curves_have_the_values_of_brute_force(curves: Curves) -> None:
    sign, count = (1 if curves.higher_is_better else -1), curves.stages
    lowest, gaps = [], []
    for task in range(count - 1):
        end = max(index for index, point in enumerate(curves.points) if point.stage == task)
        later = [point for point in curves.points[end + 1 :] if (point.stage, point.step) != (task + 1, 0)]
        lowest.append(sign * min(sign * (point.row[task] or 0) for point in later))
    for stage in range(1, count):
        for task in range(stage):
            column = [sign * (point.row[task] or 0) for point in curves.points if point.stage == stage]
            gaps.append(min(column[0], column[-1]) - min(column))
    expected = mean(lowest)
    assert average_minimum_accuracy(curves) == expected
    assert stability_gap(curves) == (None if not gaps else pytest.approx(mean(gaps), abs=1e-9))
    last = curves.points[-1].row[-1] or 0
    by_hand = last if expected is None else last / count + (1 - 1 / count) * expected
    assert worst_case_accuracy(curves) == pytest.approx(by_hand, abs=1e-9)
    trained = [point for point in curves.points if point.step]
    sums = [mean(point.row[: point.stage + 1]) for point in trained]
    assert average_anytime_accuracy(curves) == mean(sums)


@given(random_curves())
def test_what_never_changes_has_no_gap_and_its_own_value_as_the_worst(curves: Curves) -> None:
    points = tuple(
        Point(one.stage, one.step, tuple(None if cell is None else 0.5 for cell in one.row))
        for one in curves.points
    )
    constant = Curves(curves.tasks, points, curves.higher_is_better)
    expected = None if curves.stages == 1 else 0.5
    assert average_minimum_accuracy(constant) == expected
    assert stability_gap(constant) == (None if expected is None else 0)
    assert worst_case_accuracy(constant) == average_anytime_accuracy(constant) == 0.5


def test_a_value_that_falls_and_stays_is_no_gap() -> None:
    row = (Point(1, 0, (0.9, 0.1)), Point(1, 1, (0.5, 0.2)), Point(1, 2, (0.2, 0.3)))
    assert stability_gap(Curves(("a", "b"), (*WORKED.points[:2], *row), True)) == 0


def test_a_missing_value_undefines_what_needs_it() -> None:
    gap = Curves(("a", "b"), (*WORKED.points[:3], Point(1, 1, (None, 0.6)), WORKED.points[4]), True)
    assert {metric.function(gap) for metric in ANYTIME} == {None}


def line(stage: str, trained: int, step: int, task: str, value: float | None) -> dict[str, object]:
    metrics = {"accuracy": value}
    return {"stage": stage, "trained": trained, "step": step, "task": task, "metrics": metrics}


def test_lines_become_points_and_the_later_of_one_step_is_that_of_the_kept_weights() -> None:
    names = {"a": "accuracy", "b": "accuracy"}
    lines = [line("a", 0, 4, "a", 0.2), line("a", 0, 4, "a", 0.6), line("b", 1, 0, "a", None)]
    curves = make_curves(("a", "b"), names, True, lines)
    assert curves is not None
    assert curves.points == (Point(0, 4, (0.6, None)), Point(1, 0, (None, None)))
    assert make_curves(("a", "b"), names, True, []) is None
    assert make_curves(("a", "b"), names, True, [line("a to b", 0, 4, "a", 0.2)]) is None
    assert make_curves(("a", "b"), {"a": "loss", "b": "loss"}, True, lines) is None
