"""Methods side by side: means over seeds with their intervals, ranks over tasks, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

import attrs

from sidetune_core.results.compare_runs import COMPARED, common_metric, heads, keys
from sidetune_core.results.grouping import MethodRuns, same_stream, shared_line
from sidetune_core.results.metrics import Metric, meaningful, one_unit
from sidetune_core.results.report import (
    TRAINABLE,
    UNMEASURED,
    RunSummary,
    by_task,
    format_int,
    format_value,
    in_mebibytes,
    in_percent,
)
from sidetune_core.results.significance import LEVEL, Ranking, half_width, rank_methods
from sidetune_core.results.tables import Format, comma_separated, typeset


@attrs.frozen
class Estimate:
    """A figure over the seeds of a method; None where it is not defined for each of them."""

    mean: float | None
    half_width: float | None  # of the 95 % t interval; None for a single seed


@attrs.frozen
class Line:
    """What is said about one method."""

    method: MethodRuns
    figures: tuple[Estimate, ...]
    rank: float | None  # average over tasks


def compare_methods(
    methods: Sequence[MethodRuns],
    form: Format = "text",
    metrics: Sequence[Metric] = COMPARED,
    seconds: bool = True,
    further: Sequence[str] = (),
    work: bool = False,
) -> str:
    """One line for each method, best average rank first where methods can be ranked; what the numbers are, above and below.

    Losses of several tasks are not averaged: what is told instead is the average rank, forgetting as a share, and each task's loss.

    Args:
        seconds: tell the time of a run too, where all were made on a machine of the same speed.
        further: more figures of the tasks, by name, averaged over tasks and seeds.
        work: tell processor time and peak memory of a run, where they were measured.
    """
    apart = not all(one_unit(run.results) for method in methods for run in method.runs)
    if apart:
        metrics = meaningful(metrics, (run.results for method in methods for run in method.runs))
    elif metrics == COMPARED and all(
        len(run.results.tasks) == 1 for method in methods for run in method.runs
    ):
        metrics = COMPARED[:1]  # the others are the same figure, or are not defined
    ranking = rank(methods)
    ranks = ranking.average if ranking else [None] * len(methods)
    lines = [
        Line(method, tuple(estimate(method, metric) for metric in metrics), one)
        for method, one in zip(methods, ranks, strict=True)
    ]
    if ranking:
        lines.sort(key=lambda line: line.rank or 0)
    elif len(metrics) == 1 and same_stream(run for method in methods for run in method.runs):
        better = -1 if methods[0].runs[0].results.higher_is_better else 1
        lines.sort(
            key=lambda line: math.inf if line.figures[0].mean is None else better * line.figures[0].mean
        )
    if form == "csv":
        return comma_separated(_values(lines, metrics))
    tables = [typeset(_cells(lines, metrics, seconds, further, work), form)]
    if apart and same_stream(run for method in methods for run in method.runs):
        columns = [(line.method.name, [run.results.rows[-1] for run in line.method.runs]) for line in lines]
        tables.append(typeset(by_task(methods[0].runs[0].results, columns), form))
    shared, notes = shared_line(methods), _notes(methods, ranking)
    if form == "latex":
        return "\n".join([*(f"% {line}" for line in (shared, *notes) if line), *tables])
    return "\n\n".join(filter(None, [shared, *tables, ("\n" if form == "text" else "\n\n").join(notes)]))


def estimate(method: MethodRuns, metric: Metric) -> Estimate:
    """A metric over the seeds of a method."""
    return _over(method, lambda run: metric.function(run.results))


def _further(method: MethodRuns, name: str) -> Estimate:
    return _over(method, lambda run: run.further.get(name))


def _over(method: MethodRuns, read: Callable[[RunSummary], float | None]) -> Estimate:
    """A figure of a run over the seeds of a method."""
    figures = [read(run) for run in method.runs]
    known = [figure for figure in figures if figure is not None]
    return Estimate(fmean(known), half_width(known)) if len(known) == len(figures) else Estimate(None, None)


def rank(methods: Sequence[MethodRuns]) -> Ranking | None:
    """Methods ranked on each task by their last rows, averaged over seeds; None where these cannot be compared, or there is one task."""
    if len(methods) < 2 or not same_stream(run for method in methods for run in method.runs):
        return None
    results = methods[0].runs[0].results
    if len(results.tasks) < 2:
        return None
    ends = [[run.results.rows[-1] for run in method.runs] for method in methods]
    if any(cell is None for rows in ends for row in rows for cell in row):
        return None
    scores = [
        [fmean(row[task] or 0.0 for row in rows) for rows in ends] for task in range(len(results.tasks))
    ]
    return rank_methods(scores, [results.higher_is_better] * len(scores))


def _cells(
    lines: Sequence[Line], metrics: Sequence[Metric], seconds: bool, further: Sequence[str], work: bool
) -> list[list[str]]:
    """As a person reads it."""
    runs = [run for line in lines for run in line.method.runs]
    percent = all(metric.unitless for metric in metrics) or all(in_percent(run.results) for run in runs)
    ranked = any(line.rank is not None for line in lines)
    costs = ["trainable\nparameters\nper task", "parameters\nat the end", *(["seconds"] if seconds else [])]
    costs += ["processor\nseconds", "peak\nMiB"] if work else []
    figures = [
        *heads(common_metric(runs), metrics, " %" if percent else ""),
        *(name.replace("-", "\n") for name in further),
    ]
    table = [["method", "seeds", *figures, *(["average\nrank"] if ranked else []), *costs]]
    for line in lines:
        parameters = line.method.runs[0].parameters
        table.append(
            [
                line.method.name,
                str(len(line.method.runs)),
                *(_estimated(figure, percent) for figure in line.figures),
                *(_estimated(_further(line.method, name), percent=False) for name in further),
                *([] if line.rank is None else [f"{line.rank:.2f}"]),
                format_int(parameters.get(TRAINABLE)),
                format_int(parameters.get("all")),
                *([f"{fmean(run.seconds for run in line.method.runs):.1f}"] if seconds else []),
                *(_work(line.method) if work else []),
            ]
        )
    return table


def _work(method: MethodRuns) -> list[str]:
    """Processor seconds and peak memory, averaged over seeds."""
    seconds = _over(method, lambda run: run.processor_seconds).mean
    memory = _over(method, lambda run: run.peak_memory).mean
    return [
        UNMEASURED if seconds is None else f"{seconds:,.0f}",
        UNMEASURED if memory is None else in_mebibytes(memory),
    ]


def _values(lines: Sequence[Line], metrics: Sequence[Metric]) -> list[list[object]]:
    """As a program reads it."""
    names = keys(common_metric([run for line in lines for run in line.method.runs]), metrics)
    figures = [key for name in names for key in (name, f"{name}_half_width")]
    table: list[list[object]] = [
        [
            "method",
            "seeds",
            "metric",
            *figures,
            "average_rank",
            "trainable_parameters_per_task",
            "parameters",
            "seconds",
        ]
    ]
    for line in lines:
        first, *_ = runs = line.method.runs
        numbers = [number for figure in line.figures for number in (figure.mean, figure.half_width)]
        costs = [
            first.parameters.get(TRAINABLE),
            first.parameters.get("all"),
            fmean(run.seconds for run in runs),
        ]
        table.append([line.method.name, len(runs), first.results.metric, *numbers, line.rank, *costs])
    return table


def _notes(methods: Sequence[MethodRuns], ranking: Ranking | None) -> list[str]:
    """What the numbers mean, and which differences count."""
    notes = []
    if any(len(method.runs) > 1 for method in methods):
        notes.append("±: half of the 95 % t interval of the mean over seeds.")
    if ranking is None:
        alone = len(methods) < 2 or all(
            len(run.results.tasks) == 1 for method in methods for run in method.runs
        )
        return (
            notes
            if alone
            else [*notes, "No ranks: they need the same env, tasks and metric, and a last row without gaps."]
        )
    text = f"Ranks: on each of {ranking.tasks} tasks by the last row of R, 1 = best (Demšar 2006)."
    if ranking.friedman is not None:
        text += f" Friedman chi² = {ranking.friedman:.2f}, p = {ranking.friedman_p:.2g}"
        if ranking.iman_davenport is not None:
            text += f"; Iman-Davenport F = {ranking.iman_davenport:.2f}, p = {ranking.iman_davenport_p:.2g}"
        text += "."
    nearest = f"Nemenyi: average ranks less than {ranking.critical_difference:.2f} apart are not told apart at the {LEVEL} level."
    return [*notes, text, nearest]


def _estimated(figure: Estimate, percent: bool) -> str:
    return format_value(figure.mean, percent) + (
        "" if figure.half_width is None else f" ± {format_value(figure.half_width, percent)}"
    )
