"""R as a table: every row of it, or of a long stream a row for each task."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix

from sidetune_core.results.cells import format_value, in_percent
from sidetune_core.results.metrics import Results, average_accuracy, learning_accuracy, mean, one_unit
from sidetune_core.results.screen import FULL, Screen
from sidetune_core.results.tables import Format, Table, aligned, comma_separated, markdown_text, typeset

LONG = 25
"""Tasks up to which R is shown as a matrix."""


def matrix_table(results: Results, full: bool = False, screen: Screen = FULL) -> str:
    """R for a terminal: a row for the untrained learner and for each trained task, a column for each task.

    The last row ends with its mean, unless tasks have different units. Ids are shortened so that ten tasks
    fit in 80 columns. Of more than `LONG` tasks, or where the matrix is wider than the screen, a row for each
    task, unless the matrix is asked for.
    """
    by_task = f"{aligned(task_cells(results, _short(results.tasks, 12)))}\n{_how_long(results)}"
    if len(results.tasks) > LONG and not full:
        return by_task
    matrix = matrix_cells(results, rows=_short(results.tasks, 12), columns=_short(results.tasks, 6))
    for gap in (2, 1):
        text = aligned(matrix, gap=gap)
        if full or screen.width is None or max(map(len, text.splitlines())) <= screen.width:
            return text
    return by_task


def matrix_cells(results: Results, rows: Sequence[str], columns: Sequence[str]) -> Table:
    """R with row labels and column headers."""
    percent = in_percent(results)
    table = [[_title(results, percent), *columns]]
    measured = [results.initial, *results.rows]  # fewer rows than labels in an unfinished run
    for label, row in zip(["untrained", *rows], measured, strict=False):
        table.append([label, *(format_value(cell, percent, 1) for cell in row)])
    if one_unit(results):
        average = format_value(average_accuracy(results), percent, 1) if results.rows else ""
        for line, cell in zip(table, ["mean", *[""] * (len(table) - 2), average], strict=True):
            line.append(cell)
    return table


def task_cells(results: Results, labels: Sequence[str]) -> Table:
    """The diagonal of R, its last row, and that of the untrained learner: a row for each task."""
    percent, rows = in_percent(results), results.rows
    last = rows[-1] if rows else (None,) * len(results.tasks)
    after = results.tasks[len(rows) - 1] if rows else "training"
    table = [[_title(results, percent), "untrained", "after its training", f"after {after}"]]
    for index, label in enumerate(labels):
        trained = rows[index][index] if index < len(rows) else None
        cells = (results.initial[index], trained, last[index])
        table.append([label, *(format_value(cell, percent, 1) for cell in cells)])
    if one_unit(results):
        means = mean(results.initial), learning_accuracy(results), average_accuracy(results)
        table.append(["mean", *(format_value(value, percent, 1) for value in means)])
    return table


def how_to_read(results: Results) -> str:
    """What the rows and columns of the table are, in Markdown."""
    metric = markdown_text(results.metric)
    if len(results.tasks) <= LONG:
        return f"Row i, column j: {metric} on task j after training task i."
    return f"{metric.capitalize()} on each task. {_how_long(results)}"


def _how_long(results: Results) -> str:
    """What is shown of a long R, and how to get all of it."""
    return (
        f"R of {len(results.tasks):,} tasks is shown by its diagonal and its first and last rows. All rows: "
        "sidetune report RUN --full"
    )


def full_matrix(results: Results, format: Format) -> str:
    """All rows of R in a format; in CSV with all digits."""
    if format == "csv":
        rows = zip(["untrained", *results.tasks], [results.initial, *results.rows], strict=False)
        return comma_separated([[results.metric, *results.tasks], *([label, *row] for label, row in rows)])
    if format == "text":
        return matrix_table(results, full=True)
    return typeset(matrix_cells(results, results.tasks, results.tasks), format)


def _title(results: Results, percent: bool) -> str:
    """The header of R."""
    return f"{results.metric}{' %' if percent else ''} {'↑' if results.higher_is_better else '↓'}"


def _short(ids: Sequence[str], width: int) -> Sequence[str]:
    """Distinct labels of at most `width` characters.

    The first possible of: the ids, the ids without their common prefix of whole words, their beginnings,
    their ends, their indices.
    """
    prefix = commonprefix(list(ids))
    while prefix and prefix[-1].isalnum():  # whole words: task-10 and task-11 become 10 and 11, not 0 and 1
        prefix = prefix[:-1]
    candidates = (
        ids,
        [name[len(prefix) :] for name in ids],
        [name if len(name) <= width else f"{name[: width - 1]}…" for name in ids],
        [name if len(name) <= width else f"…{name[1 - width :]}" for name in ids],
    )
    for labels in candidates:
        if len(set(labels)) == len(ids) and all(0 < len(label) <= width for label in labels):
            return labels
    return [str(index) for index in range(len(ids))]
