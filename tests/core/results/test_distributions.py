"""Distributions of whole degrees of freedom, against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sidetune_core.results.distributions import chi2_sf, f_sf, studentized_range_quantile, t_quantile
from sidetune_core.results.significance import friedman_chi2, task_ranks


@pytest.mark.parametrize("df", [1, 2, 3, 8, 39])
def test_tails_of_chi2_are_those_of_scipy(df: int) -> None:
    for x in (0.0, 0.01, 2.0, 9.28, 300.0):
        assert chi2_sf(x, df) == pytest.approx(stats.chi2.sf(x, df), rel=1e-12)


@pytest.mark.parametrize(("df1", "df2"), [(1, 1), (2, 6), (3, 39), (9, 9), (30, 5970)])
def test_tails_of_f_are_those_of_scipy(df1: int, df2: int) -> None:
    for x in (0.0, 0.01, 1.0, 3.69, 200.0):
        assert f_sf(x, df1, df2) == pytest.approx(stats.f.sf(x, df1, df2), rel=1e-10)


@pytest.mark.parametrize("df", [1, 2, 3, 10, 999])
def test_quantiles_of_t_are_those_of_scipy(df: int) -> None:
    assert t_quantile(0.975, df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-10)


def test_quantiles_of_t_with_one_and_two_degrees_of_freedom_have_closed_forms() -> None:
    assert t_quantile(0.975, 1) == pytest.approx(math.tan(math.pi * 0.475), rel=1e-13)
    assert t_quantile(0.975, 2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-13)


@pytest.mark.parametrize("groups", [2, 5, 30])
def test_quantiles_of_the_studentized_range_are_those_of_scipy(groups: int) -> None:
    expected = stats.studentized_range.ppf(0.95, groups, np.inf)
    assert studentized_range_quantile(0.95, groups) == pytest.approx(expected, rel=1e-10)


def test_ranks_and_friedmans_statistic_are_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    for tasks, methods in ((1, 3), (4, 3), (9, 6)):
        scores = random.integers(0, 4, (tasks, methods)).astype(float)
        ranks = task_ranks(scores.tolist(), [True] * tasks)
        np.testing.assert_array_equal(ranks, stats.rankdata(-scores, axis=1))
        assert friedman_chi2(ranks) == pytest.approx(stats.friedmanchisquare(*ranks.T).statistic)
