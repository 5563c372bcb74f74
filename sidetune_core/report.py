"""Text from records: the matrix of one run, its figures, its report, and several runs side by side.

Nothing here reads a file or computes a figure: `metrics` computes, the run folder remembers, this writes. Every table is built
once, as rows of strings, and then set either in aligned columns for a terminal or as Markdown.

An accuracy in [0, 1] is written in percent, anything else with four significant digits; `·` stands for what was not measured or
is not defined.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from os.path import commonprefix

import attrs

from sidetune_core.metrics import (
    FURTHER,
    MAIN,
    Metric,
    Results,
    average_accuracy,
    average_incremental_accuracy,
    exactly_constant,
    forgetting,
)

UNMEASURED = "·"
NOTHING_FORGOTTEN = "Nothing was forgotten: every R[i][j], i >= j, is the same number bit for bit."
TRAINABLE = "trainable per task"  # the key of RunSummary.parameters that runs are compared by

_COMPARED = tuple(metric for metric in MAIN if metric.function is not average_incremental_accuracy)
_COMPARED_LEFT = {0, 1, 8}  # run, composition, status

Table = list[list[str]]  # rows of cells, the head first; a head may have several lines


@attrs.frozen
class Moved:
    """What learning one task changed, by comparing every tensor before and after."""

    task: str
    moved: Mapping[str, int]  # part name -> number of its tensors that changed
    kept: int  # tensors that are the same bit for bit


@attrs.frozen
class RunSummary:
    """What a report tells about one run."""

    name: str
    spec_line: str  # how it was composed: "icifar · resnet44 + fcn4 · mlp2 · sidetune · seed 0"
    results: Results
    moved: tuple[Moved, ...]
    parameters: Mapping[str, int]  # "all", "trainable per task"
    seconds: float
    status: str
    folder: str


def matrix_table(results: Results) -> str:
    """R for a terminal: a row per task trained below the untrained one, a column per task, the mean of the last row at its end.

    Ids are shortened so that ten tasks fit in 100 columns.
    """
    return _aligned(_matrix(results, rows=_short(results.tasks, 12), columns=_short(results.tasks, 6)))


def metrics_lines(results: Results) -> list[str]:
    """A line per figure: name, value, meaning and convention."""
    return _aligned(_figures(results, MAIN), left={0, 2}, gap=3).splitlines()


def moved_lines(summary: RunSummary) -> list[str]:
    """What moved and what did not, tasks that are alike in one line; and whether anything was forgotten."""
    table: Table = []
    for record in summary.moved:
        parts = {part.removesuffix(f".{record.task}"): count for part, count in record.moved.items() if count}
        text = ", ".join(f"{part} {count}" for part, count in parts.items()) or "nothing"
        if table and table[-1][1] == text:
            table[-1][0] = f"{table[-1][0].split(' to ')[0]} to {record.task}"
            table[-1][2] = str(record.kept)
        else:
            table.append([record.task, text, str(record.kept)])
    lines = [f"{tasks} moved {text} (tensors); {kept} others are the same bit for bit" for tasks, text, kept in table]
    return [*lines, NOTHING_FORGOTTEN] if _nothing_forgotten(summary.results) else lines


def run_report(summary: RunSummary) -> str:
    """The report of one run, in Markdown."""
    results = summary.results
    sections = [
        f"# {summary.name}",
        summary.spec_line,
        f"Status: {summary.status}, {len(results.rows)} of {len(results.tasks)} tasks trained. Folder: `{summary.folder}`",
        "## Results",
        f"Row i, column j: {results.metric} on task j after training task i. `{UNMEASURED}` was not measured.",
        _markdown(_matrix(results, rows=results.tasks, columns=results.tasks)),
        _markdown([["figure", "value", "definition"], *_figures(results, MAIN + FURTHER)], left={0, 2}),
    ]
    if _nothing_forgotten(results):
        sections.append(NOTHING_FORGOTTEN)
    if summary.moved:
        sections += ["## What moved", _markdown(_movements(summary.moved), left={0, 1})]
    parameters = [[f"parameters, {which}", f"{count:,}"] for which, count in summary.parameters.items()]
    sections += ["## Cost", _markdown([["cost", "amount"], *parameters, ["time", _time(summary.seconds)]])]
    return "\n\n".join(sections) + "\n"


def comparison(summaries: Sequence[RunSummary]) -> str:
    """Several runs for a terminal, one line each; the header names the convention of every figure."""
    return _aligned(_compared(summaries), left=_COMPARED_LEFT)


def comparison_markdown(summaries: Sequence[RunSummary]) -> str:
    """The table of `comparison`, in Markdown."""
    return _markdown(_compared(summaries), left=_COMPARED_LEFT)


# What the tables say


def _nothing_forgotten(results: Results) -> bool:
    """Constancy says something only where old tasks were measured after every later one, that is, where forgetting is defined."""
    return exactly_constant(results) and forgetting(results) is not None


def _matrix(results: Results, rows: Sequence[str], columns: Sequence[str]) -> Table:
    """R under the given row labels and column heads."""
    unit = " %" if _in_percent(results) else ""
    table = [[f"{results.metric}{unit} {'↑' if results.higher_is_better else '↓'}", *columns, "mean"]]
    for label, row in zip(["untrained", *rows], [results.initial, *results.rows], strict=False):  # fewer rows while under way
        table.append([label, *(_number(results, cell, 1) for cell in row), ""])
    if results.rows:
        table[-1][-1] = _number(results, average_accuracy(results), 1)
    return table


def _figures(results: Results, metrics: Sequence[Metric]) -> Table:
    """Name, value and definition of each metric, without a head."""
    return [
        [metric.title(results.metric), _value(results, metric.function(results)), f"{metric.meaning} ({metric.convention})"]
        for metric in metrics
    ]


def _movements(moved: Sequence[Moved]) -> Table:
    """Per task, the tensors that changed, by part, and those that did not."""
    table = [["task", "tensors that moved", "the same bit for bit"]]
    for record in moved:
        parts = ", ".join(f"{part} {count}" for part, count in record.moved.items() if count)
        table.append([record.task, parts or "none", str(record.kept)])
    return table


def _compared(summaries: Sequence[RunSummary]) -> Table:
    """One row per run, under heads of several lines."""
    kinds = {summary.results.metric for summary in summaries}
    kind = kinds.pop() if len(kinds) == 1 else "result"  # no column may call a loss an accuracy
    heads = ["\n".join([*metric.title(kind).split(), f"({metric.convention})"]) for metric in _COMPARED]
    table = [["run", "composition", *heads, "trainable\nparameters\nper task", "seconds", "status"]]
    for summary in summaries:
        results = summary.results
        trainable = summary.parameters.get(TRAINABLE)
        under_way = f", {len(results.rows)} of {len(results.tasks)} tasks" if len(results.rows) < len(results.tasks) else ""
        table.append(
            [
                summary.name,
                summary.spec_line,
                *(_value(results, metric.function(results)) for metric in _COMPARED),
                UNMEASURED if trainable is None else f"{trainable:,}",
                f"{summary.seconds:.1f}",
                summary.status + under_way,
            ]
        )
    return table


# How a cell is written


def _in_percent(results: Results) -> bool:
    return results.metric == "accuracy" and all(0 <= number <= 1 for number in results.measured)


def _number(results: Results, number: float | None, decimals: int) -> str:
    """Without a unit; `decimals` are those of a percentage. Never "-0.0"."""
    if number is None:
        return UNMEASURED
    return f"{100 * number:z.{decimals}f}" if _in_percent(results) else f"{number:z.4g}"


def _value(results: Results, number: float | None) -> str:
    """With its unit, to stand alone."""
    return _number(results, number, 2) + (" %" if number is not None and _in_percent(results) else "")


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
    while shared and shared[-1].isalnum():  # back to the end of a word: task-10 and task-11 become 10 and 11, not 0 and 1
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


# How a table is set


def _aligned(table: Table, left: Collection[int] = (0,), gap: int = 2) -> str:
    """Columns `gap` apart, those in `left` set to the left, the others to the right; heads of several lines end level."""
    heads = [cell.split("\n") for cell in table[0]]
    height = max(map(len, heads))
    columns = []
    for i, head in enumerate(heads):
        column = [""] * (height - len(head)) + head + [row[i] for row in table[1:]]
        width = max(map(len, column))
        columns.append([cell.ljust(width) if i in left else cell.rjust(width) for cell in column])
    return "\n".join((" " * gap).join(line).rstrip() for line in zip(*columns, strict=True))


def _markdown(table: Table, left: Collection[int] = (0,)) -> str:
    """A pipe table, the columns in `left` set to the left."""
    rule = [":---" if i in left else "---:" for i in range(len(table[0]))]
    cells = [[cell.replace("\n", " ").replace("|", r"\|") for cell in row] for row in table]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])
