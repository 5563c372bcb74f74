"""A comparison of methods: means over seeds with confidence intervals, average ranks over tasks, costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs

from sidetune_core.results.cells import UNMEASURED, format_int, format_value, in_mebibytes, in_percent
from sidetune_core.results.compare_costs import STORED_KINDS, cost_table, cost_values
from sidetune_core.results.compare_runs import COMPARED, common_metric, heads, keys
from sidetune_core.results.grouping import MethodRuns, data_lines, left_out, same_stream, shared_line
from sidetune_core.results.metrics import Metric, mean, meaningful, one_unit
from sidetune_core.results.report import by_task
from sidetune_core.results.run_summary import TRAINABLE, RunSummary
from sidetune_core.results.scenarios import by_scenario
from sidetune_core.results.screen import FULL, Screen, fitted, wrapped
from sidetune_core.results.significance import FEWEST_SEEDS, LEVEL, Ranking, half_width, rank_methods
from sidetune_core.results.tables import Format, Table, comma_separated, latex_comment, typeset


@attrs.frozen
class Estimate:
    """A value over the seeds of a method that have not diverged; None if it is undefined for one of them, or
    there are none.
    """

    mean: float | None
    half_width: float | None
    """Of the 95 % confidence interval of the mean; None below `FEWEST_SEEDS`."""
    values: tuple[float, ...] = ()
    """In the order of the seeds."""


@attrs.frozen
class Line:
    """The line of one method in the table."""

    method: MethodRuns
    estimates: tuple[Estimate, ...]
    rank: float | None
    """Average over tasks."""


def compare_methods(
    methods: Sequence[MethodRuns],
    form: Format = "text",
    metrics: Sequence[Metric] = COMPARED,
    seconds: bool = True,
    further: Sequence[str] = (),
    work: bool = False,
    screen: Screen = FULL,
) -> str:
    """One line for each method, the best average rank first, with notes on how to read the table.

    Losses of several tasks are not averaged: the table has relative forgetting and average ranks, and a
    second table the final loss of each task.

    Args:
        seconds: include the time of a run, if all runs were made on machines of the same speed.
        further: names of more metrics of the tasks, averaged over tasks and seeds.
        work: include processor time and peak memory of a run, if measured.
        screen: for text; others are complete.
    """
    groups = by_scenario(methods, lambda method: method.runs[0].spec.scenario)
    if form != "csv" and len(groups) > 1:
        tables = [compare_methods(group, form, metrics, seconds, further, work, screen) for group in groups]
        return "\n\n".join(tables)
    runs = [run for method in methods for run in method.runs]
    several_units = not all(one_unit(run.results) for run in runs)
    if several_units:
        metrics = meaningful(metrics, (run.results for run in runs))
    elif metrics == COMPARED and all(len(run.results.tasks) == 1 for run in runs):
        metrics = COMPARED[:1]  # the others are equal to it or undefined
    lines, ranking = _ranked_lines(methods, metrics)
    if form == "csv":
        return comma_separated(_values(lines, metrics))
    short = form == "text" and not screen.long
    cells = _cells(lines, metrics, seconds, further, work, short)
    tables = [fitted(cells, {0}, screen, _order(cells[0])) if short else typeset(cells, form)]
    if several_units and same_stream(runs):
        columns = [
            (line.method.name, [run.results.rows[-1] for run in line.method.averaged]) for line in lines
        ]
        tables.append(typeset(by_task(runs[0].results, columns), form))
    if any(run.stored for run in runs) and not short:
        tables.append(typeset(cost_table(methods), form))
    shared, notes = shared_line(methods), _notes(methods, ranking)
    if form == "text":
        shared, notes = wrapped([shared], screen), wrapped(notes, screen).splitlines()
    if form == "latex":
        return "\n".join([*(latex_comment(line) for line in (shared, *notes) if line), *tables])
    return "\n\n".join(filter(None, [shared, *tables, ("\n" if form == "text" else "\n\n").join(notes)]))


def method_table(methods: Sequence[MethodRuns], metrics: Sequence[Metric]) -> tuple[Table, list[str]]:
    """One row per method under short heads, and notes on how to read them, for any layout."""
    metrics = meaningful(metrics, [run.results for method in methods for run in method.runs])
    lines, ranking = _ranked_lines(methods, metrics)
    return _cells(lines, metrics, seconds=True, further=(), work=False, short=True), _notes(methods, ranking)


def _ranked_lines(
    methods: Sequence[MethodRuns], metrics: Sequence[Metric]
) -> tuple[list[Line], Ranking | None]:
    """The lines of a table, the best first where that is defined."""
    runs = [run for method in methods for run in method.runs]
    ranking = rank([method for method in methods if method.averaged])
    ranks = iter(ranking.average if ranking else ())
    lines = [
        Line(
            method,
            tuple(estimate(method, metric) for metric in metrics),
            next(ranks, None) if method.averaged else None,
        )
        for method in methods
    ]
    if ranking:
        lines.sort(key=lambda line: _sort_key(line.rank, 1))
    elif len(metrics) == 1 and same_stream(runs):
        sign = -1 if runs[0].results.higher_is_better else 1
        lines.sort(key=lambda line: _sort_key(line.estimates[0].mean, sign))
    return lines, ranking


def _order(header: Sequence[str]) -> list[int]:
    """The columns of a short table that may be left out, the least important first."""
    names = ("seconds", "params\nin all", "bwt", "increm", "learn", "seeds", "params\nper task", "rank")
    heads = [head.removesuffix("\n%") for head in header]
    return [heads.index(name) for name in names if name in heads]


def estimate(method: MethodRuns, metric: Metric) -> Estimate:
    """A metric over the seeds of a method that have not diverged."""
    return _over_seeds(method, lambda run: metric.function(run.results))


def rank(methods: Sequence[MethodRuns]) -> Ranking | None:
    """Methods ranked on each task by the last row of R, averaged over the seeds that have not diverged.

    None for a single method or task, for different streams, and for last rows with gaps.
    """
    if len(methods) < 2 or not same_stream(run for method in methods for run in method.runs):
        return None
    results = methods[0].runs[0].results
    if len(results.tasks) < 2:
        return None
    last_rows = [[run.results.rows[-1] for run in method.averaged] for method in methods]
    scores = []
    for task in range(len(results.tasks)):
        means = [mean(row[task] for row in rows) for rows in last_rows]
        scores.append([average for average in means if average is not None])
        if len(scores[-1]) < len(means):
            return None
    return rank_methods(scores, [results.higher_is_better] * len(scores))


def _estimate_other(method: MethodRuns, name: str) -> Estimate:
    return _over_seeds(method, lambda run: run.other_metrics.get(name))


def _over_seeds(method: MethodRuns, read: Callable[[RunSummary], float | None]) -> Estimate:
    """A value of a run over the seeds of a method that have not diverged."""
    values = [read(run) for run in method.averaged]
    average = mean(values)
    if average is None:
        return Estimate(None, None)
    known = tuple(value for value in values if value is not None)
    return Estimate(average, half_width(known), known)


def _sort_key(value: float | None, sign: int) -> float:
    """Undefined values come last."""
    return math.inf if value is None else sign * value


def _cells(
    lines: Sequence[Line],
    metrics: Sequence[Metric],
    seconds: bool,
    further: Sequence[str],
    work: bool,
    short: bool = False,
) -> list[list[str]]:
    """The formatted table."""
    runs = [run for line in lines for run in line.method.runs]
    percent = all(metric.unitless for metric in metrics) or all(in_percent(run.results) for run in runs)
    ranked = any(line.rank is not None for line in lines)
    costs = ["trainable\nparameters\nper task", "parameters\nat the end", *(["seconds"] if seconds else [])]
    costs += ["processor\nseconds", "peak\nMiB"] if work else []
    kind, rank_head = common_metric(runs), "average\nrank"
    names = heads(kind, metrics, " %" if percent else "")
    if short:
        names = [metric.head(kind) + ("\n%" if percent else "") for metric in metrics]
        costs[:2], rank_head = ["params\nper task", "params\nin all"], "rank"
    names += [name.replace("-", "\n") for name in further]
    table = [["method", "seeds", *names, *([rank_head] if ranked else []), *costs]]
    for line in lines:
        parameters = line.method.runs[0].parameters
        table.append(
            [
                line.method.name,
                _count_seeds(line.method),
                *(format_estimate(estimated, percent) for estimated in line.estimates),
                *(format_estimate(_estimate_other(line.method, name), percent=False) for name in further),
                *([UNMEASURED if line.rank is None else f"{line.rank:.2f}"] if ranked else []),
                format_int(parameters.get(TRAINABLE)),
                format_int(parameters.get("all")),
                *([_format_seconds(line.method)] if seconds else []),
                *(_processor_and_memory(line.method) if work else []),
            ]
        )
    return table


def _count_seeds(method: MethodRuns) -> str:
    """The number of seeds in the means: "3", or "2 of 3" if one has diverged."""
    averaged, seeds = len(method.averaged), len(method.runs)
    return str(seeds) if averaged == seeds else f"{averaged} of {seeds}"


def _format_seconds(method: MethodRuns) -> str:
    seconds = _over_seeds(method, lambda run: run.seconds).mean
    return UNMEASURED if seconds is None else f"{seconds:.1f}"


def _processor_and_memory(method: MethodRuns) -> list[str]:
    """Processor seconds and peak memory, averaged over seeds."""
    seconds = _over_seeds(method, lambda run: run.processor_seconds).mean
    memory = _over_seeds(method, lambda run: run.peak_memory).mean
    return [
        UNMEASURED if seconds is None else f"{seconds:,.0f}",
        UNMEASURED if memory is None else in_mebibytes(memory),
    ]


def _values(lines: Sequence[Line], metrics: Sequence[Metric]) -> list[list[object]]:
    """The table in plain values."""
    columns = ["method", "seeds", "metric"]
    for name in keys(common_metric([run for line in lines for run in line.method.runs]), metrics):
        columns += [name, f"{name}_half_width"]
    columns += ["average_rank", "trainable_parameters_per_task", "parameters", "seconds", "diverged_seeds"]
    columns.append("scenario")
    columns += [f"{name}_bytes" for name in STORED_KINDS] + ["processor_seconds", "joules"]
    table: list[list[object]] = [[*columns]]
    for line in lines:
        first, averaged = line.method.runs[0], line.method.averaged
        row: list[object] = [line.method.name, len(averaged), first.results.metric]
        for estimated in line.estimates:
            row += [estimated.mean, estimated.half_width]
        row += [line.rank, first.parameters.get(TRAINABLE), first.parameters.get("all")]
        seconds = _over_seeds(line.method, lambda run: run.seconds).mean
        row += [seconds, len(line.method.runs) - len(averaged), first.spec.scenario]
        table.append([*row, *cost_values(line.method)])
    return table


def _notes(methods: Sequence[MethodRuns], ranking: Ranking | None) -> list[str]:
    """How to read the table, which runs are left out, and which differences are significant."""
    notes = [*left_out(methods), *data_lines([run for method in methods for run in method.runs])]
    seeds = {len(method.averaged) for method in methods} - {0, 1}
    if seeds and max(seeds) < FEWEST_SEEDS:
        notes.append(
            f"No confidence intervals over seeds: they need {FEWEST_SEEDS} seeds. Of two seeds, a cell has "
            "both values."
        )
    elif seeds:
        fewest = (
            f", from {FEWEST_SEEDS} seeds on; of two seeds, a cell has both values"
            if min(seeds) < FEWEST_SEEDS
            else ""
        )
        notes.append(f"± is the half-width of the 95 % confidence interval (t) over seeds{fewest}.")
    if ranking is None:
        single_task = all(len(run.results.tasks) == 1 for method in methods for run in method.runs)
        if len(methods) > 1 and not single_task:
            notes.append(
                "No ranks: they need two methods with the same env, data, tasks and metric, and last rows "
                "without gaps."
            )
        return notes
    text = f"Ranks are averages over {ranking.tasks} tasks, by the last row of R; 1 is best (Demšar 2006)."
    notes.append(f"{text} {_test_line(ranking)}")
    notes.append(
        f"Average ranks closer than CD = {ranking.critical_difference:.2f} do not differ significantly "
        f"(Nemenyi, α = {LEVEL})."
    )
    return notes


def _test_line(ranking: Ranking) -> str:
    """The tests of the hypothesis that all methods are equal: first the one that holds for few tasks."""
    if ranking.friedman is None:
        return f"Sign test: {ranking.permutation}."
    text = f"Friedman chi² = {ranking.friedman:.2f}, permutation test {ranking.permutation}"
    approximations = [f"chi² p = {ranking.friedman_p:.2g}"]
    if ranking.iman_davenport is not None:
        p = ranking.iman_davenport_p
        value = f"{ranking.iman_davenport:.2f}, p = {p:.2g}" if p is not None else "∞, without a p-value"
        approximations.append(f"Iman-Davenport F = {value}")
    return f"{text}; for many tasks: {', '.join(approximations)}."


def format_estimate(estimated: Estimate, percent: bool) -> str:
    """Mean and half-width; both values of two seeds, whose spread says nothing about a mean."""
    if len(estimated.values) == 2:
        return ", ".join(format_value(value, percent) for value in estimated.values)
    mean = format_value(estimated.mean, percent)
    if estimated.half_width is None:
        return mean
    return f"{mean} ± {format_value(estimated.half_width, percent)}"
