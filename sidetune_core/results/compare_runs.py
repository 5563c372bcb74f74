"""A comparison of runs, one line each."""

from __future__ import annotations

from collections.abc import Sequence

from sidetune_core.errors import RunError
from sidetune_core.io.printable import counted
from sidetune_core.results.cells import UNMEASURED, format_int, format_metric
from sidetune_core.results.grouping import data_labels, data_lines, group_runs, same_stream, shared_line
from sidetune_core.results.metrics import (
    MAIN,
    MIXED,
    Metric,
    Results,
    Row,
    average_incremental_accuracy,
    intransigence,
    meaningful,
    one_unit,
    relative_intransigence,
)
from sidetune_core.results.report import by_task, gap_lines
from sidetune_core.results.run_summary import TRAINABLE, RunSummary
from sidetune_core.results.scenarios import by_scenario
from sidetune_core.results.screen import FULL, Screen, fitted, wrapped
from sidetune_core.results.tables import Format, Table, comma_separated, typeset
from sidetune_core.scenarios import title
from sidetune_core.storage.status import DIVERGED

COMPARED = tuple(metric for metric in MAIN if metric.function is not average_incremental_accuracy)
"""The metrics in comparisons of runs and of methods."""

LEFT_OUT = ("bwt", "s", "learn", "params\nper task", "forget")
"""Columns of a short table that may be left out, the least important first."""


def compare_runs(
    summaries: Sequence[RunSummary],
    form: Format = "text",
    metrics: Sequence[Metric] = COMPARED,
    screen: Screen = FULL,
) -> str:
    """A table of runs, one line each; the header names the convention of every metric.

    If tasks have different units, results are not averaged, and a second table has the final result of each
    task.

    Args:
        summaries: the runs.
        form: the format.
        metrics: the columns.
        screen: for text; others are complete.
    """
    if form != "csv" and len(groups := by_scenario(summaries, lambda run: run.spec.scenario)) > 1:
        return "\n\n".join(compare_runs(group, form, metrics, screen) for group in groups)
    first = summaries[0].results
    metrics = meaningful(metrics, [summary.results for summary in summaries])
    if form == "csv":
        return comma_separated(_values(summaries, metrics))
    run, composition, status = 0, 1, len(metrics) + 4
    left = {run, composition, status}
    if form == "text" and not screen.long:
        cells = _cells(summaries, metrics, short=True)
        order = [cells[0].index(name) for name in LEFT_OUT if name in cells[0]]
        tables = [fitted(cells, left, screen, order)]
    else:
        tables = [typeset(_cells(summaries, metrics), form, left=left)]
    if not one_unit(first) and same_stream(summaries):
        columns = [(summary.name, [_last_row(summary.results)]) for summary in summaries]
        tables.append(typeset(by_task(first, columns), form))
    notes, heading = _notes(summaries), title(summaries[0].spec.scenario)
    if form == "latex":
        return "\n".join([*(f"% {note}" for note in (heading, *notes)), "\n\n".join(tables)])
    notes = wrapped(notes, screen).splitlines() if form == "text" else notes
    if form == "text" and not screen.long:
        heading = wrapped([shared_line(group_runs(summaries))], screen)
    return "\n\n".join([heading, *tables, *(["\n".join(notes)] if notes else [])])


def against(reference: RunSummary) -> Metric:
    """Intransigence with the last row of `reference`, usually a run of joint training, as a*.

    Relative intransigence if tasks have different units.

    Raises:
        RunError: the last row has gaps.
    """
    row = reference.results.rows[-1] if reference.results.rows else ()
    if not row or None in row:
        raise RunError(f"{reference.folder} cannot be a reference: its last row of R has gaps")
    meaning, best = (
        "how much worse right after training than the reference",
        f"a* = last row of {reference.name}",
    )
    if one_unit(reference.results):
        return Metric(
            "intransigence",
            "I",
            f"Chaudhry 2018, {best}",
            meaning,
            lambda results: intransigence(results, row),
        )
    return Metric(
        "relative intransigence",
        "I",
        f"after Chaudhry 2018, {best}",
        f"{meaning}, as a fraction of it",
        lambda results: relative_intransigence(results, row),
        unitless=True,
    )


def heads(kind: str, metrics: Sequence[Metric], unit: str = "") -> list[str]:
    """Column headers in short lines: the metric's name with its unit, and its convention."""
    titles = ["\n".join(metric.title(kind).split()) for metric in metrics]
    return [
        f"{title}{unit}\n({metric.convention})".replace(", ", ",\n")
        for title, metric in zip(titles, metrics, strict=True)
    ]


def keys(kind: str, metrics: Sequence[Metric]) -> list[str]:
    """Column names for CSV: "average_accuracy"."""
    return [metric.title(kind).replace(" ", "_") for metric in metrics]


def common_metric(summaries: Sequence[RunSummary]) -> str:
    """The name of the tasks' metric, or `MIXED` if runs have different metrics."""
    kinds = {summary.results.metric for summary in summaries}
    return kinds.pop() if len(kinds) == 1 else MIXED


def _last_row(results: Results) -> Row:
    return results.rows[-1] if results.rows else results.initial


def run_table(summaries: Sequence[RunSummary], metrics: Sequence[Metric] = COMPARED) -> Table:
    """One row per run under short heads, for any layout."""
    return _cells(summaries, meaningful(metrics, [summary.results for summary in summaries]), short=True)


def _cells(summaries: Sequence[RunSummary], metrics: Sequence[Metric], short: bool = False) -> Table:
    """One row per run, formatted."""
    kind = common_metric(summaries)
    named = [metric.head(kind) for metric in metrics] if short else heads(kind, metrics)
    costs = ["params\nper task", "s"] if short else ["trainable\nparameters\nper task", "seconds"]
    table = [["run", "method" if short else "composition", *named, *costs, "status"]]
    compositions = _differences(summaries) if short else _compositions(summaries)
    for summary, composition in zip(summaries, compositions, strict=True):
        results = summary.results
        trained, total = len(results.rows), len(results.tasks)
        progress = f", {trained} of {counted(total, 'task')}" if trained < total else ""
        status = DIVERGED if summary.diverged else summary.status  # a note has the reason
        table.append(
            [
                summary.name,
                composition,
                *(format_metric(results, metric) for metric in metrics),
                format_int(summary.parameters.get(TRAINABLE)),
                UNMEASURED if summary.seconds is None else f"{summary.seconds:.1f}",
                status + progress,
            ]
        )
    return table


def _differences(summaries: Sequence[RunSummary]) -> list[str]:
    """What distinguishes each run from the others, with its seed where that differs too."""
    names = {
        run.folder: method.name for method in group_runs(summaries) for run in (*method.runs, *method.repeats)
    }
    seeds = len({summary.spec.seed for summary in summaries}) > 1
    return [
        names[summary.folder] + (f" · seed {summary.spec.seed}" if seeds else "") for summary in summaries
    ]


def _compositions(summaries: Sequence[RunSummary]) -> list[str]:
    """The composition of each run, marked where runs of the same env had different data."""
    labels = data_labels(summaries)
    return [
        f"{summary.spec_line} · data {label}" if label else summary.spec_line
        for summary, label in zip(summaries, labels, strict=True)
    ]


def _notes(summaries: Sequence[RunSummary]) -> list[str]:
    """Why runs have diverged, each evaluation without metric in a line, and which runs had other data."""
    gaps = [f"{summary.name}: {line.strip()}" for summary in summaries for line in gap_lines(summary)[1:]]
    return [*gaps, *data_lines(summaries)]


def _values(summaries: Sequence[RunSummary], metrics: Sequence[Metric]) -> list[list[object]]:
    """One row per run, in plain values."""
    names = keys(common_metric(summaries), metrics)
    costs = ["trainable_parameters_per_task", "parameters", "seconds"]
    table: list[list[object]] = [
        ["run", "composition", "seed", "metric", *names, *costs, "status", "tasks_trained", "scenario"]
    ]
    for summary, composition in zip(summaries, _compositions(summaries), strict=True):
        results = summary.results
        run = [summary.name, composition, summary.spec.seed, results.metric]
        values = [metric.function(results) for metric in metrics]
        parameters = [summary.parameters.get(TRAINABLE), summary.parameters.get("all")]
        table.append(
            [
                *run,
                *values,
                *parameters,
                summary.seconds,
                summary.status,
                len(results.rows),
                summary.spec.scenario,
            ]
        )
    return table
