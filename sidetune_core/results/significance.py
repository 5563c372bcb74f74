"""What may be said about methods that were compared on several tasks: ranks, tests on them, and intervals over seeds.

Follows Demšar (2006), "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7. Its tests take the tasks as
independent; those of one stream share a base, and a run or two of the same few tasks shows less than a p-value seems to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np
from scipy import stats

LEVEL = 0.05


@attrs.frozen
class Ranking:
    """Methods ranked on every task, and the tests on these ranks."""

    average: tuple[float, ...]  # of each method, over the tasks; 1 = best on every task
    tasks: int
    friedman: (
        float | None
    )  # chi², corrected for ties, k - 1 degrees of freedom; None for fewer than three methods
    friedman_p: float | None  # of "all methods are alike"; 1 where they tie on every task
    iman_davenport: (
        float | None
    )  # F of Iman & Davenport (1980), which is less conservative; None as above, and on a single task
    iman_davenport_p: float | None
    critical_difference: (
        float  # Nemenyi's, at LEVEL: methods whose average ranks are nearer than this are not told apart
    )


def rank_methods(scores: Sequence[Sequence[float]], higher_is_better: Sequence[bool]) -> Ranking:
    """Rank methods on each task and average.

    Args:
        scores: a row for each task, in it a figure for each of two methods or more; NaN is not allowed.
        higher_is_better: for each task, which way its figures are read.
    """
    ranks = task_ranks(scores, higher_is_better)
    tasks, methods = ranks.shape
    chi2 = chi2_p = None
    if methods > 2:
        tied = bool((ranks == ranks[0, 0]).all())  # where scipy divides 0 by 0
        chi2, chi2_p = (0.0, 1.0) if tied else (float(value) for value in stats.friedmanchisquare(*ranks.T))
    f = f_p = None
    if chi2 is not None and tasks > 1:
        f, f_p = iman_davenport(chi2, methods, tasks)
    average = tuple(float(rank) for rank in ranks.mean(axis=0))
    return Ranking(average, tasks, chi2, chi2_p, f, f_p, critical_difference(methods, tasks))


def task_ranks(
    scores: Sequence[Sequence[float]], higher_is_better: Sequence[bool]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The ranks (tasks, methods) within each task: 1 = best, ties share the mean of their places."""
    signs = np.where(higher_is_better, -1.0, 1.0)
    ranks: np.ndarray[tuple[int, int], np.dtype[np.float64]] = stats.rankdata(
        signs[:, None] * np.asarray(scores), axis=1
    )
    return ranks


def iman_davenport(chi2: float, methods: int, tasks: int) -> tuple[float, float]:
    """F = (N - 1) chi² / (N (k - 1) - chi²) and its p-value, with k - 1 and (k - 1) (N - 1) degrees of freedom."""
    rest = tasks * (methods - 1) - chi2
    f = (tasks - 1) * chi2 / rest if rest > 1e-9 * tasks else math.inf  # all tasks rank alike
    return f, float(stats.f.sf(f, methods - 1, (methods - 1) * (tasks - 1)))


def critical_difference(methods: int, tasks: int) -> float:
    """Nemenyi's q sqrt(k (k + 1) / (6 N)), with q the studentized range of k groups at LEVEL, divided by sqrt 2."""
    q = float(stats.studentized_range.ppf(1 - LEVEL, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * tasks))


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % t interval of the mean, t s / sqrt(n); None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(
        stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    )
