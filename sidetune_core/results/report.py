"""Text from records: the matrix of one run, its figures, its report.

Nothing here reads a file or computes a figure: `metrics` computes, the run folder remembers, this writes, and `tables` sets.

An accuracy in [0, 1] is written in percent, anything else with four significant digits; `·` stands for what was not measured or
is not defined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import commonprefix

import attrs

from sidetune_core.config.spec import RunSpec
from sidetune_core.results.metrics import (
    FURTHER,
    MAIN,
    Metric,
    Results,
    Row,
    average_accuracy,
    exactly_constant,
    forgetting,
    mean,
    meaningful,
    one_unit,
)
from sidetune_core.results.tables import Table, aligned, markdown

UNMEASURED = "·"
NOTHING_FORGOTTEN = "Nothing was forgotten: every R[i][j], i >= j, is the same number bit for bit."
TRAINABLE = "trainable per task"  # the key of RunSummary.parameters that runs are compared by


@attrs.frozen
class ChangedTensors:
    """What learning one task changed, by comparing every tensor before and after."""

    task: str
    moved: Mapping[str, int]  # part name -> number of its tensors that changed
    kept: int  # tensors that are the same bit for bit


@attrs.frozen
class RunSummary:
    """What a report tells about one run."""

    name: str
    spec: RunSpec  # with every name and option written out
    spec_line: str  # how it was composed: "icifar · resnet44 + fcn4 · mlp2 · sidetune · seed 0"
    results: Results
    moved: tuple[ChangedTensors, ...]
    parameters: Mapping[str, int]  # "all", "trainable per task"
    seconds: float
    status: str
    folder: str
    certified: tuple[str, ...] = ()  # what the certificate says, in lines
    processor_seconds: float | None = None
    peak_memory: int | None = None  # bytes
    further: Mapping[str, float] = attrs.field(
        factory=dict
    )  # figures of the tasks at the end, averaged over tasks


def matrix_table(results: Results) -> str:
    """R for a terminal: a row per task trained below the untrained one, a column per task, the mean of the last row at its end.

    The mean is left out where tasks have figures of different units. Ids are shortened so that ten tasks fit in 100 columns.
    """
    return aligned(_matrix(results, rows=_short(results.tasks, 12), columns=_short(results.tasks, 6)))


def metrics_lines(results: Results, metrics: Sequence[Metric] = MAIN) -> list[str]:
    """A line per figure that holds for these results (see `metrics.meaningful`): name, value, meaning and convention."""
    return aligned(_figures(results, metrics), left={0, 2}, gap=3).splitlines()


def changed_lines(summary: RunSummary) -> list[str]:
    """What moved and what did not, tasks that are alike in one line; and whether anything was forgotten."""
    table: list[list[str]] = []
    for record in summary.moved:
        parts = {part.removesuffix(f".{record.task}"): count for part, count in record.moved.items() if count}
        text = ", ".join(f"{part} {count}" for part, count in parts.items()) or "nothing"
        if table and table[-1][1] == text:
            table[-1][0] = f"{table[-1][0].split(' to ')[0]} to {record.task}"
            table[-1][2] = str(record.kept)
        else:
            table.append([record.task, text, str(record.kept)])
    lines = [
        f"{tasks} moved {text} (tensors); {kept} others are the same bit for bit"
        for tasks, text, kept in table
    ]
    constant = [NOTHING_FORGOTTEN] if _nothing_forgotten(summary.results) else []
    return [*lines, *constant, *summary.certified]


def one_line(results: Results, percent: bool) -> str:
    """What a run has come to, in a line: the average, in percent or as it is, or the figure of each task where these differ in unit."""
    if one_unit(results):
        return f"average {results.metric} {format_value(average_accuracy(results), percent, 1)}{' %' if percent else ''}"
    last = results.rows[-1] if results.rows else results.initial
    return f"{results.metric} " + ", ".join(
        f"{task} {format_value(cell, False)}" for task, cell in zip(results.tasks, last, strict=True)
    )


def run_report(summary: RunSummary) -> str:
    """The report of one run, in Markdown."""
    results = summary.results
    sections = [
        f"# {summary.name}",
        summary.spec_line,
        f"Status: {summary.status}, {len(results.rows)} of {len(results.tasks)} tasks trained. Folder: `{summary.folder}`",
        "## Results",
        f"Row i, column j: {results.metric} on task j after training task i. `{UNMEASURED}` was not measured.",
        markdown(_matrix(results, rows=results.tasks, columns=results.tasks)),
        markdown([["figure", "value", "definition"], *_figures(results, MAIN + FURTHER)], left={0, 2}),
    ]
    if _nothing_forgotten(results):
        sections.append(NOTHING_FORGOTTEN)
    if summary.moved:
        sections += ["## What moved", markdown(_movements(summary.moved), left={0, 1})]
    if summary.certified:
        first, *rest = summary.certified
        sections += ["## Certificate", "\n".join([first, *(f"- {line.strip()}" for line in rest)])]
    parameters = [[f"parameters, {which}", f"{count:,}"] for which, count in summary.parameters.items()]
    sections += [
        "## Cost",
        markdown([["cost", "amount"], *parameters, ["time", _time(summary.seconds)], *_work(summary)]),
    ]
    return "\n\n".join(sections) + "\n"


# What the tables say


def _nothing_forgotten(results: Results) -> bool:
    """Constancy says something only where old tasks were measured after every later one, that is, where forgetting is defined."""
    return exactly_constant(results) and forgetting(results) is not None


def _matrix(results: Results, rows: Sequence[str], columns: Sequence[str]) -> Table:
    """R under the given row labels and column heads."""
    unit = " %" if in_percent(results) else ""
    table = [[f"{results.metric}{unit} {'↑' if results.higher_is_better else '↓'}", *columns]]
    for label, row in zip(
        ["untrained", *rows], [results.initial, *results.rows], strict=False
    ):  # fewer rows while under way
        table.append([label, *(format_value(cell, in_percent(results), 1) for cell in row)])
    if one_unit(results):
        average = format_value(average_accuracy(results), in_percent(results), 1) if results.rows else ""
        for line, cell in zip(table, ["mean", *[""] * (len(table) - 2), average], strict=True):
            line.append(cell)
    return table


def _figures(results: Results, metrics: Sequence[Metric]) -> Table:
    """Name, value and definition of each metric, without a head."""
    return [
        [metric.title(results.metric), value(results, metric), f"{metric.meaning} ({metric.convention})"]
        for metric in meaningful(metrics, [results])
    ]


def _movements(moved: Sequence[ChangedTensors]) -> Table:
    """Per task, the tensors that changed, by part, and those that did not."""
    table = [["task", "tensors that moved", "the same bit for bit"]]
    for record in moved:
        parts = ", ".join(f"{part} {count}" for part, count in record.moved.items() if count)
        table.append([record.task, parts or "none", str(record.kept)])
    return table


def by_task(results: Results, columns: Sequence[tuple[str, Sequence[Row]]]) -> Table:
    """What each task has come to: a line for each, and a column for each name, of means over the last rows of R that come with it."""
    table = [[f"{results.metric} in the end", *("\n".join(name.split()) for name, _ in columns)]]
    for place, task in enumerate(results.tasks):
        table.append([task, *(format_value(mean(row[place] for row in rows), False) for _, rows in columns)])
    return table


# How a cell is written


def in_percent(results: Results) -> bool:
    """Whether these are accuracies in [0, 1]."""
    return results.metric == "accuracy" and all(0 <= number <= 1 for number in results.measured)


def format_value(number: float | None, percent: bool, decimals: int = 2) -> str:
    """Without a unit; `decimals` are those of a percentage. Never "-0.0"."""
    if number is None:
        return UNMEASURED
    return f"{100 * number:z.{decimals}f}" if percent else f"{number:z.4g}"


def format_int(number: int | None) -> str:
    """With thousands set apart."""
    return UNMEASURED if number is None else f"{number:,}"


def value(results: Results, metric: Metric) -> str:
    """A figure with its unit, to stand alone; shares are in percent."""
    number, percent = metric.function(results), metric.unitless or in_percent(results)
    return format_value(number, percent) + (" %" if number is not None and percent else "")


def _work(summary: RunSummary) -> Table:
    """What the machine did, where that was measured."""
    if summary.processor_seconds is None or summary.peak_memory is None:
        return []
    return [
        ["processor time", _time(summary.processor_seconds)],
        ["peak memory", f"{in_mebibytes(summary.peak_memory)} MiB"],
    ]


def in_mebibytes(size: float) -> str:
    """A number of bytes."""
    return f"{size / 2**20:,.0f}"


def _time(seconds: float) -> str:
    """In two units at most: "8.4 s", "3 min 20 s", "2 h 05 min"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _short(ids: Sequence[str], width: int) -> Sequence[str]:
    """Labels of at most `width` characters that tell the ids apart.

    The first of these that does: the ids, the ids without the words they all begin with, their beginnings, ends, or numbers.
    """
    shared = commonprefix(list(ids))
    while (
        shared and shared[-1].isalnum()
    ):  # back to the end of a word: task-10 and task-11 become 10 and 11, not 0 and 1
        shared = shared[:-1]
    attempts = (
        ids,
        [name[len(shared) :] for name in ids],
        [name if len(name) <= width else f"{name[: width - 1]}…" for name in ids],
        [name if len(name) <= width else f"…{name[1 - width :]}" for name in ids],
    )
    for labels in attempts:
        if len(set(labels)) == len(ids) and all(0 < len(label) <= width for label in labels):
            return labels
    return [str(number) for number in range(len(ids))]
