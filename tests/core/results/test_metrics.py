"""The metrics computed from R, against values computed by hand and by other code bases."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidetune_core.results.metrics import (
    FURTHER,
    MAIN,
    Results,
    Row,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    backward_transfer_all_pairs,
    clipped_forgetting,
    exactly_constant,
    first_minus_last,
    forgetting,
    forgetting_any_row,
    forward_transfer,
    forward_transfer_all_pairs,
    forward_transfer_without_baseline,
    intransigence,
    learning_accuracy,
    mean,
    one_unit,
    relative_forgetting,
    triangle_accuracy,
    worst_case,
)

Function = Callable[[Results], float | None]

FUNCTIONS = [average_accuracy, average_incremental_accuracy, learning_accuracy, forgetting, backward_transfer]
DIFFERENCES = [
    forgetting,
    clipped_forgetting,
    first_minus_last,
    backward_transfer,
    backward_transfer_all_pairs,
]


def results_of(*rows: Row, tasks: int | None = None, higher_is_better: bool = True) -> Results:
    count = len(rows) if tasks is None else tasks
    return Results(
        tuple("abcdefgh"[:count]),
        rows,
        (None,) * count,
        "accuracy" if higher_is_better else "loss",
        higher_is_better,
    )


# Code bases disagree on this matrix. Renate's functions give F 0.1 and BWT -0.0333, as the papers do;
# a maximum that includes the last row gives F 0.15, first minus last 0.0333, and BWT over all pairs -0.0417.
WORKED = results_of(
    (0.90, 0.20, 0.15, 0.10), (0.70, 0.60, 0.25, 0.20), (0.75, 0.80, 0.70, 0.30), (0.60, 0.65, 0.85, 0.95)
)
WORKED = attrs.evolve(WORKED, initial=(0.10, 0.12, 0.11, 0.10))


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (average_accuracy, 0.7625),
        (average_incremental_accuracy, 0.765625),
        (learning_accuracy, 0.7875),
        (forgetting, 0.1),
        (backward_transfer, -1 / 30),
        (triangle_accuracy, 0.75),
        (backward_transfer_all_pairs, -1 / 24),
        (forward_transfer, 0.14),
        (forward_transfer_without_baseline, 0.25),
        (forward_transfer_all_pairs, (0.20 + 0.15 + 0.10 + 0.25 + 0.20 + 0.30) / 6),
        (forgetting_any_row, 0.1),
        (first_minus_last, 1 / 30),
        (clipped_forgetting, 0.15),
        (worst_case, (0.60 + 0.65 + 0.85) / 3),
    ],
)
def test_the_worked_matrix_has_the_textbook_values(function: Function, value: float) -> None:
    assert function(WORKED) == pytest.approx(value, abs=1e-15)


def test_cells_above_the_diagonal_are_not_needed() -> None:
    lower = results_of((0.5, None, None), (0.25, 0.75, None), (0.5, 0.5, 1.0))
    assert [function(lower) for function in FUNCTIONS] == pytest.approx(
        [2 / 3, (0.5 + 0.5 + 2 / 3) / 3, 0.75, 0.125, -0.125]
    )


def test_forgetting_is_negative_if_tasks_are_better_than_ever_before() -> None:
    assert forgetting(results_of((0.5, None), (0.75, 1.0))) == -0.25


def test_where_lower_is_better_forgetting_is_positive_when_the_metric_rose() -> None:
    risen = results_of((0.5, None, None), (0.25, 1.0, None), (0.75, 1.5, 2.0), higher_is_better=False)
    assert forgetting(risen) == 0.5  # (0.75 - 0.25 + 1.5 - 1.0) / 2


def test_where_lower_is_better_backward_transfer_is_negative_when_the_metric_rose() -> None:
    risen = results_of((0.5, None, None), (0.25, 1.0, None), (0.75, 1.5, 2.0), higher_is_better=False)
    assert backward_transfer(risen) == -0.375  # (0.5 - 0.75 + 1.0 - 1.5) / 2


def test_where_lower_is_better_averages_are_as_measured() -> None:
    losses = results_of((4.0, None), (2.0, 1.0), higher_is_better=False)
    assert (average_accuracy(losses), average_incremental_accuracy(losses), learning_accuracy(losses)) == (
        1.5,
        2.75,
        2.5,
    )


def test_a_loss_and_the_accuracy_it_complements_give_the_same_differences() -> None:
    errors = results_of(
        *(tuple(1 - cell for cell in row if cell is not None) for row in WORKED.rows), higher_is_better=False
    )
    assert forgetting(errors) == pytest.approx(0.1, abs=1e-15)
    assert backward_transfer(errors) == pytest.approx(-1 / 30, abs=1e-15)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_unfinished_run_is_evaluated_as_the_shorter_stream(function: Function) -> None:
    shorter = results_of((0.9, 0.2), (0.7, 0.6))
    assert function(attrs.evolve(WORKED, rows=WORKED.rows[:2])) == function(shorter)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_is_defined_before_the_first_task_is_trained(function: Function) -> None:
    assert function(results_of(tasks=3)) is None


def test_one_task_has_averages_and_no_differences() -> None:
    assert [function(results_of((0.5,))) for function in FUNCTIONS] == [0.5, 0.5, 0.5, None, None]


def test_a_missing_cell_undefines_the_metrics_that_need_it_and_no_others() -> None:
    gap = results_of((1.0, None, None), (None, 1.0, None), (0.5, 0.5, 0.5))
    assert [function(gap) for function in FUNCTIONS] == [0.5, None, pytest.approx(2.5 / 3), None, -0.5]


def test_equal_columns_are_exactly_constant_whatever_was_measured_before_training() -> None:
    assert exactly_constant(results_of((0.1, 0.3, None), (0.1, 0.2, 0.9), (0.1, 0.2, 0.7)))


def test_one_unit_in_the_last_place_is_not_constant() -> None:
    assert not exactly_constant(results_of((0.3, None), (0.1 + 0.2, 0.5)))


def test_zeros_of_different_sign_are_not_constant() -> None:
    assert not exactly_constant(results_of((0.0, None), (-0.0, 0.5)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_cell_that_is_not_finite_is_a_gap(value: float) -> None:
    results = attrs.evolve(results_of((value, None), (0.5, 1.0)), initial=(value, 0.5))
    assert (results.rows, results.initial) == (((None, None), (0.5, 1.0)), (None, 0.5))


def test_cells_from_before_the_training_of_a_task_do_not_count_as_forgotten() -> None:
    constant = results_of((0.5, 0.3, None), (0.5, 0.25, 0.1), (0.5, 0.25, 0.6))
    assert exactly_constant(constant)
    assert (forgetting(constant), relative_forgetting(constant), clipped_forgetting(constant)) == (0, 0, 0)


def test_forgetting_is_relative_to_the_best_row_since_training() -> None:
    assert forgetting(results_of((0.5, 0.9, None), (0.75, 0.5, 0.9), (0.5, 0.25, 0.5))) == 0.25


@given(data=st.data(), higher_is_better=st.booleans())
def test_exactly_constant_columns_imply_no_forgetting_and_no_transfer(
    data: st.DataObject, higher_is_better: bool
) -> None:
    tasks = data.draw(st.integers(2, 5))
    cells = st.none() | st.floats()  # above the diagonal: anything, NaN too
    learned = data.draw(st.lists(st.floats(allow_nan=False), min_size=tasks, max_size=tasks))
    gaps = data.draw(st.sets(st.tuples(st.integers(0, tasks - 1), st.integers(0, tasks - 1)), max_size=2))
    rows = [
        tuple(
            data.draw(cells) if j > i else None if (i, j) in gaps else value
            for j, value in enumerate(learned)
        )
        for i in range(data.draw(st.integers(2, tasks)))
    ]
    results = results_of(*rows, tasks=tasks, higher_is_better=higher_is_better)
    assert exactly_constant(results)
    for function in (*DIFFERENCES, relative_forgetting):
        assert function(results) in (0, None)
    if not gaps and all(map(math.isfinite, learned)):
        assert [function(results) for function in DIFFERENCES] == [0] * len(DIFFERENCES)


def test_rows_that_do_not_fit_the_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 of the results has 1 cells for 2 tasks"):
        results_of((0.5, None), (0.5,))
    with pytest.raises(ValueError, match="2 rows of results for 1 tasks"):
        results_of((0.5,), (0.5,), tasks=1)


def test_every_metric_is_listed_once_with_its_convention() -> None:
    assert [(metric.function, metric.convention) for metric in MAIN] == list(
        zip(FUNCTIONS, ["GEM 2017", "iCaRL 2017", "MER 2019", "Chaudhry 2018", "GEM 2017"], strict=True)
    )


def test_no_two_metrics_have_the_same_name() -> None:
    names = [metric.name for metric in MAIN + FURTHER]
    assert len(names) == len(set(names))


def test_intransigence_is_the_mean_difference_from_the_reference() -> None:
    assert intransigence(results_of((0.5, 0.1), (0.4, 0.75)), (0.75, 0.75)) == 0.125


def test_where_lower_is_better_intransigence_is_positive_when_the_reference_is_lower() -> None:
    assert intransigence(results_of((0.5, 1.0), (0.75, 0.5), higher_is_better=False), (0.25, 0.5)) == 0.125


def test_where_lower_is_better_the_worst_row_is_the_highest() -> None:
    assert (
        worst_case(results_of((0.5, 9.0, 9.0), (0.75, 0.5, 9.0), (0.6, 0.5, 0.5), higher_is_better=False))
        == 0.625
    )


def test_the_former_name_of_the_lower_triangle_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"Results\.learnt is now Results\.trained"):
        assert WORKED.learnt == WORKED.trained


def test_a_loss_is_not_called_an_accuracy() -> None:
    assert MAIN[0].title("l1") == "average l1"


def test_relative_forgetting_is_a_fraction_of_the_best_earlier_row() -> None:
    losses = results_of((2.0, None, None), (1.0, 4.0, None), (1.5, 3.0, 9.0), higher_is_better=False)
    assert relative_forgetting(losses) == (0.5 - 0.25) / 2
    assert relative_forgetting(results_of((0.5, None), (0.375, 1.0))) == 0.25
    assert relative_forgetting(results_of((0.0, None), (0.0, 1.0))) is None
    assert relative_forgetting(results_of((None, None), (0.5, 1.0))) is None


def test_losses_have_one_unit_where_there_is_one_task() -> None:
    assert not one_unit(results_of((1.0, None), (1.0, 1.0), higher_is_better=False))
    assert one_unit(results_of((1.0,), higher_is_better=False))
    assert one_unit(results_of((1.0, None), (1.0, 1.0)))


@pytest.mark.parametrize("cells", [(1e308, 1e308), (math.inf, 0.5)])
def test_a_mean_that_is_too_large_is_none(cells: tuple[float, ...]) -> None:
    assert mean(cells) is None
    assert average_accuracy(results_of((1e308, None), (1e308, 1e308))) is None


CELLS = st.floats(0, 1, width=16)


@st.composite
def matrices(draw: st.DrawFn) -> Results:
    """R of one to five tasks, all cells measured, in either direction."""
    count = draw(st.integers(1, 5))
    rows = draw(st.lists(st.tuples(*[CELLS] * count), min_size=1, max_size=count))
    return results_of(*rows, tasks=count, higher_is_better=draw(st.booleans()))


def as_given(rows: tuple[Row, ...]) -> list[list[float]]:
    return [[cell for cell in row if cell is not None] for row in rows]


@given(matrices())
def test_forgetting_and_forward_transfer_are_their_formulas(results: Results) -> None:
    cells, count = as_given(results.rows), len(results.rows)
    sign = 1 if results.higher_is_better else -1
    lost = [
        max(sign * cells[row][task] for row in range(task, count - 1)) - sign * cells[-1][task]
        for task in range(count - 1)
    ]
    literally = [
        max(sign * cells[row][task] for row in range(count - 1)) - sign * cells[-1][task]
        for task in range(count - 1)
    ]
    upper = [cells[row][task] for row in range(count) for task in range(row + 1, count)]
    for function, terms in (
        (forgetting, lost),
        (forgetting_any_row, literally),
        (forward_transfer_all_pairs, upper),
    ):
        expected = sum(terms) / len(terms) if terms else None
        assert function(results) == (None if expected is None else pytest.approx(expected, abs=1e-9))


@given(matrices())
def test_columns_that_are_constant_from_training_on_are_not_forgotten_whatever_is_above(
    results: Results,
) -> None:
    rows = [list(row) for row in results.rows]
    for task in range(len(rows)):
        for row in rows[task:]:
            row[task] = results.rows[task][task]
    constant = attrs.evolve(results, rows=tuple(map(tuple, rows)))
    expected = 0 if len(rows) > 1 else None
    assert {function(constant) for function in DIFFERENCES} == {expected}
    assert exactly_constant(constant)


def test_the_literal_formula_counts_a_task_that_training_made_worse_as_forgotten() -> None:
    worse = results_of((0.5, 0.9, None), (0.5, 0.4, None), (0.5, 0.4, 0.7))
    assert (forgetting(worse), forgetting_any_row(worse)) == (0, 0.25)


def test_forward_transfer_over_all_pairs_needs_the_whole_upper_triangle() -> None:
    assert forward_transfer_all_pairs(results_of((0.5, 0.3, None), (0.5, 0.4, 0.2), (0.5, 0.4, 0.7))) is None
    assert forward_transfer_all_pairs(results_of((0.5, 0.3), (0.5, 0.4))) == 0.3
