"""Ranks and the tests on them, against the tables of Demšar (2006)."""

from __future__ import annotations

import math

import pytest

from sidetune_core.results.significance import (
    critical_difference,
    half_width,
    iman_davenport,
    rank_methods,
    task_ranks,
)

# Table 6: areas under the ROC curve of C4.5, +m, +cf and +m+cf. The paper ranks line 'voting' by more
# digits than it prints.
TABLE_6 = [
    [0.763, 0.768, 0.771, 0.798],
    [0.599, 0.591, 0.590, 0.569],
    [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898],
    [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685],
    [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000],
    [0.940, 0.962, 0.965, 0.962],
    [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.97501, 0.975],
    [0.957, 0.978, 0.946, 0.970],
]


def test_the_average_ranks_are_those_of_the_paper() -> None:
    assert rank_methods(TABLE_6, [True] * 14).average == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)


def test_friedmans_statistic_is_that_of_the_paper_corrected_for_ties() -> None:
    ties = 3 * (2**3 - 2) + (4**3 - 4)  # three pairs and a full row
    correction = 1 - ties / (14 * 4 * (4**2 - 1))
    assert rank_methods(TABLE_6, [True] * 14).friedman == pytest.approx(9.28 / correction, abs=0.01)


def test_the_f_of_iman_and_davenport_is_that_of_the_paper() -> None:
    f, p = iman_davenport(9.28, methods=4, tasks=14)
    assert f == pytest.approx(3.69, abs=5e-3)
    assert p is not None
    assert p < 0.05  # 3.69 > 2.85, the critical value of F(3, 39)
    chi2 = 42 * 2.85 / (13 + 2.85)  # F = 2.85
    assert iman_davenport(chi2, methods=4, tasks=14)[1] == pytest.approx(0.05, abs=5e-4)


def test_the_critical_difference_is_that_of_the_paper() -> None:
    assert critical_difference(methods=4, tasks=14) == pytest.approx(1.25, abs=5e-3)


@pytest.mark.parametrize(
    ("methods", "q"),
    [
        (2, 1.960),
        (3, 2.343),
        (4, 2.569),
        (5, 2.728),
        (6, 2.850),
        (7, 2.949),
        (8, 3.031),
        (9, 3.102),
        (10, 3.164),
    ],
)
def test_the_critical_values_are_those_of_the_papers_table(methods: int, q: float) -> None:
    assert critical_difference(methods, tasks=6) / math.sqrt(methods * (methods + 1) / 36) == pytest.approx(
        q, abs=1e-3
    )


def test_ties_get_their_mean_rank() -> None:
    assert task_ranks([[0.5, 0.9, 0.5, 0.1], [0.7, 0.7, 0.7, 0.9]], [True, True]).tolist() == [
        [2.5, 1, 2.5, 4],
        [3, 3, 3, 1],
    ]


def test_each_task_is_read_in_its_own_direction() -> None:
    assert task_ranks([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [True, False]).tolist() == [[3, 2, 1], [1, 2, 3]]


def test_three_methods_on_four_tasks_without_ties_follow_friedmans_formula() -> None:
    ranking = rank_methods([[3, 2, 1], [3, 2, 1], [3, 1, 2], [2, 3, 1]], [True] * 4)
    assert ranking.average == (1.25, 2.0, 2.75)
    assert ranking.friedman == pytest.approx(12 * 4 / 12 * (1.25**2 + 2**2 + 2.75**2 - 3 * 4**2 / 4))  # 4.5
    assert ranking.friedman_p == pytest.approx(math.exp(-4.5 / 2))  # chi² with two degrees of freedom
    assert ranking.iman_davenport == pytest.approx(3 * 4.5 / (4 * 2 - 4.5))


def test_methods_that_rank_alike_on_every_task_have_an_infinite_f() -> None:
    ranking = rank_methods([[3, 2, 1]] * 5, [True] * 5)
    assert (ranking.iman_davenport, ranking.iman_davenport_p) == (math.inf, None)
    assert ranking.permutation.p == pytest.approx(6 / 6**5)  # 6 of the 6^5 orders agree on every task


def test_methods_that_always_tie_do_not_differ() -> None:
    ranking = rank_methods([[1, 1, 1]] * 5, [True] * 5)
    assert (ranking.average, ranking.friedman, ranking.friedman_p, ranking.iman_davenport_p) == (
        (2, 2, 2),
        0,
        1,
        1,
    )


def test_two_methods_have_ranks_but_no_friedman_test() -> None:
    ranking = rank_methods([[1, 0], [1, 0], [0, 1], [1, 0]], [True] * 4)
    assert (ranking.average, ranking.friedman, ranking.friedman_p) == ((1.25, 1.75), None, None)
    assert ranking.critical_difference == pytest.approx(1.96 / 2, abs=1e-3)  # 1.96 sqrt(2 * 3 / (6 * 4))


def test_an_interval_has_students_quantile() -> None:
    quantile = 4.303  # t with two degrees of freedom; s = 1
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(quantile / math.sqrt(3), abs=1e-3)


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0]])
def test_fewer_than_three_values_have_no_interval(values: list[float]) -> None:
    assert half_width(values) is None


def test_an_interval_that_is_too_large_is_none() -> None:
    assert half_width([1e308, -1e308, 1e308]) is None
