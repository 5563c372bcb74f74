"""How a value of a table is written: percentages, units, bytes, times, and what was not measured.

An accuracy in [0, 1] is printed in percent, any other metric with four significant digits; `·` marks cells
that were not measured and metrics that are undefined.
"""

from __future__ import annotations

from sidetune_core.results.metrics import Metric, Results
from sidetune_core.scenarios import TASK_AWARE

UNMEASURED = "·"
PERCENTAGES = ("accuracy", "balanced_accuracy")
"""Metrics in [0, 1] that are printed in percent."""


def in_percent(results: Results) -> bool:
    """Whether the results are accuracies in [0, 1]."""
    return results.metric.removesuffix(TASK_AWARE) in PERCENTAGES and results.in_unit_range


def format_value(value: float | None, percent: bool, decimals: int = 2) -> str:
    """The value without a unit: a percentage with `decimals`, or four significant digits. Never "-0.0"."""
    if value is None:
        return UNMEASURED
    return f"{100 * value:z.{decimals}f}" if percent else f"{value:z.4g}"


def with_unit(metric: str, value: float | None) -> str:
    """A value of a metric with its unit: 96.7 % for an accuracy of 0.967."""
    known = value is not None and 0 <= value <= 1 and metric.removesuffix(TASK_AWARE) in PERCENTAGES
    return format_value(value, known, 1) + (" %" if known else "")


def format_int(number: int | None) -> str:
    """With a separator for thousands."""
    return UNMEASURED if number is None else f"{number:,}"


def format_metric(results: Results, metric: Metric) -> str:
    """The value of a metric with its unit; ratios are in percent."""
    value, percent = metric.function(results), metric.unitless or in_percent(results)
    return format_value(value, percent) + (" %" if value is not None and percent else "")


def in_mebibytes(size: float) -> str:
    """A size in bytes, in MiB."""
    return f"{size / 2**20:,.0f}"


def time_text(seconds: float | None) -> str:
    """In at most two units: "8.4 s", "3 min 20 s", "2 h 05 min"."""
    if seconds is None:
        return UNMEASURED
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes} min {remainder:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
