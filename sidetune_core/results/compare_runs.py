"""Several runs side by side, a line each."""

from __future__ import annotations

from collections.abc import Sequence

from sidetune_core.errors import RunError
from sidetune_core.results.grouping import same_stream
from sidetune_core.results.metrics import (
    MAIN,
    MIXED,
    Metric,
    average_incremental_accuracy,
    intransigence,
    meaningful,
    one_unit,
    relative_intransigence,
)
from sidetune_core.results.report import TRAINABLE, RunSummary, by_task, format_int, value
from sidetune_core.results.tables import Format, Table, comma_separated, typeset

COMPARED = tuple(metric for metric in MAIN if metric.function is not average_incremental_accuracy)
"""What runs and methods are compared by."""


def compare_runs(
    summaries: Sequence[RunSummary], form: Format = "text", metrics: Sequence[Metric] = COMPARED
) -> str:
    """Several runs, one line each; the head names the convention of every figure.

    Where tasks have figures of different units, none is a mean of them, and a second table has the figure of each task in the end.
    """
    every = [summary.results for summary in summaries]
    metrics = meaningful(metrics, every)
    if form == "csv":
        return comma_separated(_compared_values(summaries, metrics))
    tables = [
        typeset(_compared(summaries, metrics), form, left={0, 1, len(metrics) + 4})
    ]  # run, composition, status
    if not one_unit(every[0]) and same_stream(summaries):
        ends = [
            (one.name, [one.results.rows[-1] if one.results.rows else one.results.initial])
            for one in summaries
        ]
        tables.append(typeset(by_task(every[0], ends), form))
    return "\n\n".join(tables)


def against(reference: RunSummary) -> Metric:
    """Intransigence, with the last row of `reference` as what can be reached on each task; meant for a joint run.

    Where its tasks have figures of different units, as a share of these.

    Raises:
        RunError: it was not measured on every task at its end.
    """
    row = reference.results.rows[-1] if reference.results.rows else ()
    if not row or None in row:
        raise RunError(f"{reference.folder} cannot be a reference: its last row of R is not complete")
    meaning, best = "how much worse when just learnt than the reference", f"a* = last row of {reference.name}"
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
        f"{meaning}, as a share of it",
        lambda results: relative_intransigence(results, row),
        unitless=True,
    )


def heads(kind: str, metrics: Sequence[Metric], unit: str = "") -> list[str]:
    """Of columns of figures: the name with its unit, and the convention, in short lines."""
    titles = ["\n".join(metric.title(kind).split()) for metric in metrics]
    return [
        f"{title}{unit}\n({metric.convention})".replace(", ", ",\n")
        for title, metric in zip(titles, metrics, strict=True)
    ]


def keys(kind: str, metrics: Sequence[Metric]) -> list[str]:
    """The heads for a program: "average_accuracy"."""
    return [metric.title(kind).replace(" ", "_") for metric in metrics]


def common_metric(summaries: Sequence[RunSummary]) -> str:
    """The name of the metric, or `MIXED` where there are several: no column may call a loss an accuracy."""
    kinds = {summary.results.metric for summary in summaries}
    return kinds.pop() if len(kinds) == 1 else MIXED


def _compared(summaries: Sequence[RunSummary], metrics: Sequence[Metric]) -> Table:
    """One row per run."""
    table = [
        [
            "run",
            "composition",
            *heads(common_metric(summaries), metrics),
            "trainable\nparameters\nper task",
            "seconds",
            "status",
        ]
    ]
    for summary in summaries:
        results = summary.results
        under_way = (
            f", {len(results.rows)} of {len(results.tasks)} tasks"
            if len(results.rows) < len(results.tasks)
            else ""
        )
        table.append(
            [
                summary.name,
                summary.spec_line,
                *(value(results, metric) for metric in metrics),
                format_int(summary.parameters.get(TRAINABLE)),
                f"{summary.seconds:.1f}",
                summary.status + under_way,
            ]
        )
    return table


def _compared_values(summaries: Sequence[RunSummary], metrics: Sequence[Metric]) -> list[list[object]]:
    """The same in plain values, and what the composition says, apart."""
    figures = keys(common_metric(summaries), metrics)
    costs = ["trainable_parameters_per_task", "parameters", "seconds"]
    table: list[list[object]] = [
        ["run", "composition", "seed", "metric", *figures, *costs, "status", "tasks_trained"]
    ]
    for summary in summaries:
        results = summary.results
        about = [summary.name, summary.spec_line, summary.spec.seed, results.metric]
        parameters = [summary.parameters.get(TRAINABLE), summary.parameters.get("all")]
        measured = [metric.function(results) for metric in metrics]
        table.append([*about, *measured, *parameters, summary.seconds, summary.status, len(results.rows)])
    return table
