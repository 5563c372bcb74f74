"""Ranks of methods over tasks, significance tests on them, and confidence intervals over seeds.

Follows Demšar (2006), "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7. Its chi² and
F are approximations for many tasks, so p-values are those of the permutation test of Friedman's statistic
(see `permutations`). The tests assume independent tasks; the tasks of one stream share a base, so with few
tasks and seeds the p-values are optimistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import attrs
import numpy as np

from sidetune_core.results.distributions import chi2_sf, f_sf, studentized_range_quantile, t_quantile
from sidetune_core.results.permutations import PermutationTest, permutation_test

Ranks: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float64]]

LEVEL = 0.05
"""Significance level α of every test and interval."""

FEWEST_SEEDS = 3
"""Smallest number of seeds with an interval: that of two is 13 standard errors wide on either side."""


@attrs.frozen
class Ranking:
    """Average ranks of methods, and the tests on them."""

    average: tuple[float, ...]
    """Average rank over tasks, for each method; 1 = best on every task."""
    tasks: int
    friedman: float | None
    """chi² with k - 1 degrees of freedom, corrected for ties; None for fewer than three methods."""
    friedman_p: float | None
    """Its p-value by the chi² distribution, for many tasks; 1 if all methods tie on every task."""
    iman_davenport: float | None
    """F of Iman & Davenport (1980), less conservative; None as above, and for a single task. Infinite if
    every task ranks the methods alike."""
    iman_davenport_p: float | None
    """None where F is infinite: it is outside of the distribution that the p-value is from."""
    permutation: PermutationTest
    """The p-value of Friedman's statistic by permutation, for any number of tasks; for two methods it is that
    of the sign test."""
    critical_difference: float
    """Nemenyi's CD at `LEVEL`: methods whose average ranks are closer do not differ significantly."""


def rank_methods(scores: Sequence[Sequence[float]], higher_is_better: Sequence[bool]) -> Ranking:
    """Rank methods on each task, average the ranks over tasks, and test for differences.

    Args:
        scores: (tasks, methods), a metric value for each of at least two methods; no NaN.
        higher_is_better: the direction of each task's metric.
    """
    ranks = task_ranks(scores, higher_is_better)
    tasks, methods = ranks.shape
    chi2 = chi2_p = None
    if methods > 2:
        chi2 = friedman_chi2(ranks)
        chi2_p = chi2_sf(chi2, methods - 1)
    f = f_p = None
    if chi2 is not None and tasks > 1:
        f, f_p = iman_davenport(chi2, methods, tasks)
    average = tuple(float(rank) for rank in ranks.mean(axis=0))
    permutation = permutation_test(ranks)
    return Ranking(average, tasks, chi2, chi2_p, f, f_p, permutation, critical_difference(methods, tasks))


def task_ranks(scores: Sequence[Sequence[float]], higher_is_better: Sequence[bool]) -> Ranks:
    """The ranks (tasks, methods) within each task: 1 = best, ties get their mean rank."""
    values = np.where(higher_is_better, -1.0, 1.0)[:, None] * np.asarray(scores)
    better = (values[:, None, :] < values[:, :, None]).sum(axis=2)
    alike = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    ranks: Ranks = better + (alike + 1) / 2
    return ranks


def friedman_chi2(ranks: Ranks) -> float:
    """12 N / (k (k + 1)) Σ (mean rank - (k + 1) / 2)², divided by the correction for ties; 0 if all tie."""
    tasks, methods = ranks.shape
    sizes = [np.unique(row, return_counts=True)[1] for row in ranks]
    ties = sum(int((size * (size**2 - 1)).sum()) for size in sizes)
    correction = 1 - ties / (methods * (methods**2 - 1) * tasks)
    if not correction:
        return 0.0
    squares = float((ranks.sum(axis=0) ** 2).sum())
    return (12 / (methods * tasks * (methods + 1)) * squares - 3 * tasks * (methods + 1)) / correction


def iman_davenport(chi2: float, methods: int, tasks: int) -> tuple[float, float | None]:
    """F = (N - 1) chi² / (N (k - 1) - chi²) and its p-value; infinite, without one, if every task ranks the
    methods alike.

    It has k - 1 and (k - 1) (N - 1) degrees of freedom, for k methods on N tasks.
    """
    denominator = tasks * (methods - 1) - chi2
    if denominator <= 1e-9 * tasks:  # sf(inf) would be 0, and no test on finitely many tasks has p = 0
        return math.inf, None
    f = (tasks - 1) * chi2 / denominator
    return f, f_sf(f, methods - 1, (methods - 1) * (tasks - 1))


def critical_difference(methods: int, tasks: int) -> float:
    """Nemenyi's CD = q sqrt(k (k + 1) / (6 N)), for k methods on N tasks.

    q is the quantile of the studentized range of k groups at `LEVEL`, divided by sqrt 2.
    """
    q = studentized_range_quantile(1 - LEVEL, methods) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * tasks))


def half_width(values: Sequence[float]) -> float | None:
    """Half-width of the 95 % confidence interval of the mean, t s / sqrt(n); None below `FEWEST_SEEDS`, and
    where it is too large for a float.
    """
    n = len(values)
    if n < FEWEST_SEEDS:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        half = float(t_quantile(1 - LEVEL / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return half if math.isfinite(half) else None
