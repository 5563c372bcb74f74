"""The permutation test of Friedman's statistic: its p-value for any number of tasks, ties included.

If all methods are equal, each order of the ranks within a task is equally likely, so the p-value is the
fraction of orders of all tasks whose statistic is at least the observed one (Friedman, JASA 1937). With the
ranks of each task given, the statistic grows with the sum of the squared rank sums of the methods, which is
compared here.
"""

from __future__ import annotations

from itertools import permutations
from math import factorial
from typing import Any

import attrs
import numpy as np

Integers = np.ndarray[tuple[int, int], np.dtype[np.int64]]

EXACT_METHODS = 5
"""Methods up to which the exact distribution is computed."""

MOST_CASES = 300_000
"""Rank sums times orders of one task, up to which the exact distribution is computed."""

SAMPLES = 19_999
"""Random orders otherwise. The standard error of p = 0.05 is then 0.0015."""


@attrs.frozen
class PermutationTest:
    """A p-value, and how it was computed."""

    p: float
    samples: int | None
    """Number of random orders; None for the exact p-value."""

    def __str__(self) -> str:
        how = "exact" if self.samples is None else f"{self.samples:,} random permutations"
        return f"p = {self.p:.2g} ({how})"


def permutation_test(
    ranks: np.ndarray[tuple[int, int], np.dtype[np.float64]], seed: int = 0
) -> PermutationTest:
    """The test of ranks (tasks, methods) within each task, ties with their mean rank.

    Args:
        ranks: of at least two methods.
        seed: of the random orders, where there are too many for the exact p-value.
    """
    doubled: Integers = np.rint(2 * ranks).astype(np.int64)  # mean ranks of ties are halves
    observed = int(np.square(doubled.sum(axis=0)).sum())
    exact = _exact(doubled, observed)
    if exact is not None:
        return PermutationTest(exact, None)
    rng = np.random.default_rng(seed)
    sums = np.zeros((SAMPLES, doubled.shape[1]), np.int64)
    for row in doubled:
        sums += rng.permuted(np.tile(row, (SAMPLES, 1)), axis=1)
    reached = int((np.square(sums).sum(axis=1) >= observed).sum())
    # the observed order is one of those counted, so that p is never 0 (Phipson & Smyth 2010)
    return PermutationTest((reached + 1) / (SAMPLES + 1), SAMPLES)


def _exact(doubled: Integers, observed: int) -> float | None:
    """The fraction of orders whose sum of squares is at least `observed`; None if there are too many.

    The tasks are added one after another. Rank sums that differ in the order of the methods have the same
    distribution from there on, so they are kept sorted, each with its probability.
    """
    methods = doubled.shape[1]
    if methods > EXACT_METHODS:
        return None
    sums: Integers = np.zeros((1, methods), np.int64)
    chances: np.ndarray[tuple[Any, ...], np.dtype[np.float64]] = np.ones(1)
    for row in doubled:
        orders = np.array(list(permutations(row.tolist())), np.int64)
        if len(sums) * len(orders) > MOST_CASES:
            return None
        together = np.sort((sums[:, None, :] + orders[None, :, :]).reshape(-1, methods), axis=1)
        weights = np.repeat(chances, len(orders)) / factorial(methods)
        base = int(together.max()) + 1
        keys = together @ (base ** np.arange(methods, dtype=np.int64))  # one number for each row
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        sums, chances = together[first], np.bincount(inverse, weights).astype(np.float64)
    reached = np.square(sums).sum(axis=1) >= observed
    return min(1.0, float(chances[reached].sum()))
