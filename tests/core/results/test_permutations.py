"""The permutation test of Friedman's statistic, against all orders, published tables and the sign test."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from sidetune_core.results.permutations import permutation_test


def by_brute_force(ranks: list[list[float]]) -> float:
    """The fraction of all orders within tasks whose Friedman statistic is at least the observed one."""

    def statistic(rows: tuple[tuple[float, ...], ...]) -> float:
        return sum(sum(column) ** 2 for column in zip(*rows, strict=True))

    observed = statistic(tuple(tuple(row) for row in ranks))
    orders = list(product(*(list(permutations(row)) for row in ranks)))
    return sum(statistic(rows) >= observed - 1e-9 for rows in orders) / len(orders)


@pytest.mark.parametrize(
    "ranks",
    [
        [[1, 2, 3], [1, 3, 2], [1, 2, 3], [2, 1, 3]],
        [[1.5, 1.5, 3], [2, 2, 2], [1, 2.5, 2.5]],
        [[1, 2, 3, 4], [2, 1, 4, 3], [1, 3.5, 2, 3.5]],
        [[1, 2], [1, 2], [2, 1]],
    ],
)
def test_the_exact_p_value_is_that_of_all_orders_ties_included(ranks: list[list[float]]) -> None:
    test = permutation_test(np.array(ranks, dtype=float))
    assert (test.p, test.samples) == (pytest.approx(by_brute_force(ranks)), None)


def test_the_p_value_is_that_of_friedmans_table() -> None:
    # three methods on four tasks, chi² = 6.5: P = 0.042 (Friedman 1937, table V)
    ranks = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [2, 1, 3]], dtype=float)
    assert stats.friedmanchisquare(*ranks.T).statistic == pytest.approx(6.5)
    assert permutation_test(ranks).p == pytest.approx(0.042, abs=5e-4)


def test_two_methods_have_the_p_value_of_the_sign_test() -> None:
    ranks = np.array([[1, 2]] * 8 + [[2, 1]], dtype=float)
    assert permutation_test(ranks).p == pytest.approx(stats.binomtest(8, 9).pvalue)


def test_methods_that_tie_everywhere_have_p_1() -> None:
    assert permutation_test(np.full((6, 4), 2.5)).p == pytest.approx(1.0)


def test_many_methods_have_a_p_value_of_random_orders_that_is_never_0() -> None:
    alike = np.tile(np.arange(1.0, 9.0), (12, 1))
    test = permutation_test(alike)
    assert (test.p, test.samples) == (1 / 20_000, 19_999)
    assert str(test) == "p = 5e-05 (19,999 random permutations)"


def test_random_orders_agree_with_the_chi_squared_distribution_on_many_tasks() -> None:
    ranks = np.random.default_rng(1).permuted(np.tile(np.arange(1.0, 8.0), (60, 1)), axis=1)
    expected = float(stats.friedmanchisquare(*ranks.T).pvalue)
    assert permutation_test(ranks).p == pytest.approx(expected, abs=0.015)
    assert permutation_test(ranks) == permutation_test(ranks)
