"""The distributions that the tests on ranks and the intervals need, for whole degrees of freedom.

SciPy has them too, but is larger than all other dependencies except PyTorch. Tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
STEP = 0.02
"""Of the trapezoidal rule in `studentized_range_cdf`, whose error at it is below 1e-13."""


def chi2_sf(x: float, df: int) -> float:
    """P(X > x) for chi² with `df` degrees of freedom (Abramowitz & Stegun 26.4.4 and 26.4.5)."""
    half = x / 2
    odd = df % 2 == 1
    tail, power = (math.erfc(math.sqrt(half)), 0.5) if odd else (math.exp(-half), 1.0)
    while 2 * power < df:
        if half:
            tail += math.exp(power * math.log(half) - half - math.lgamma(power + 1))
        power += 1
    return tail


def f_sf(x: float, df1: int, df2: int) -> float:
    """P(X > x) for F with `df1` and `df2` degrees of freedom (Abramowitz & Stegun 26.6.2)."""
    return beta_cdf(df2 / (df2 + df1 * x), df2 / 2, df1 / 2)


@cache
def t_quantile(p: float, df: int) -> float:
    """The t with P(T <= t) = `p`, above 1/2, for Student's t with `df` degrees of freedom."""

    def cdf(t: float) -> float:
        return 1 - beta_cdf(df / (df + t * t), df / 2, 0.5) / 2

    return _quantile(cdf, p)


@cache
def studentized_range_quantile(p: float, groups: int) -> float:
    """The q with P(Q <= q) = `p` for the studentized range of `groups` normal values of known variance."""
    return _quantile(lambda q: studentized_range_cdf(q, groups), p)


def studentized_range_cdf(q: float, groups: int) -> float:
    """k ∫ φ(z) (Φ(z) - Φ(z - q))^(k - 1) dz: the largest of k normal values is z, the others lie within q."""
    z = np.arange(-9.0, 9.0, STEP)
    inside = [NORMAL.cdf(float(at)) - NORMAL.cdf(float(at) - q) for at in z]
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return groups * STEP * float(density @ np.array(inside) ** (groups - 1))


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges slowly there
        return 1 - beta_cdf(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / (a * _continued_fraction(x, a, b))


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + …)), which has converged after O(sqrt(a + b)) terms, from the last one on."""
    value = 1.0
    for n in range(50 + 10 * math.isqrt(math.ceil(a + b)), 0, -1):
        m = n // 2
        d = m * (b - m) * x if n % 2 == 0 else -(a + m) * (a + b + m) * x
        value = 1 + d / ((a + n - 1) * (a + n) * value)
    return value


def _quantile(cdf: Callable[[float], float], p: float) -> float:
    """Where a continuous distribution on [0, ∞) reaches `p`, by bisection to the last bit."""
    low, high = 0.0, 1.0
    while cdf(high) < p:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if cdf(middle) < p else (low, middle)
    return high
