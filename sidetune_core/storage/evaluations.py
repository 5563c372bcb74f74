"""R as a run folder records it: the evaluations in ``eval.jsonl``, and the rows of R that they amount to.

A row of R has a line for each evaluation and split. It may end with ``{"after": 17, "unchanged": true}``:
each task trained before row 17 that has no line in this row was not evaluated once more, because nothing
that it reads had changed, and has the values of the row before. So the lines of a row are as many after the
thousandth task as after the tenth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from sidetune_core.storage.run_folder import RunFolder

FILE = "eval.jsonl"

UNCHANGED = "unchanged"
"""Key of the line of a row whose other tasks have the values of the row before."""

UNCHANGED_SINCE = "unchanged_since"
"""Key of a value that an earlier version carried over: the row of R that was measured."""

T = TypeVar("T")


@attrs.frozen
class Evaluations:
    """The evaluations of a run."""

    lines: Sequence[Mapping[str, Any]]
    """A line for each evaluation and split, in the order of the file."""
    unchanged: frozenset[int]
    """The rows in which tasks without a line have the values of the row before."""

    def rows(
        self, tasks: Sequence[str], split: str, value: Callable[[Mapping[str, Any]], T]
    ) -> dict[int, list[T | None]]:
        """The rows of R by number, each with a value for each task; None where there is none.

        Args:
            tasks: of the run, in the order of training; lines of others are left out.
            split: that was evaluated.
            value: of a line.

        Raises:
            KeyError, TypeError: a line has other keys or types.
        """
        positions = {task: index for index, task in enumerate(tasks)}
        own: dict[int, list[tuple[int, T]]] = {}
        for line in self.lines:
            if line["split"] == split and line["task"] in positions:
                own.setdefault(line["after"], []).append((positions[line["task"]], value(line)))
        rows: dict[int, list[T | None]] = {}
        for row in sorted(own.keys() | self.unchanged):
            cells: list[T | None] = [None] * len(tasks)
            if row in self.unchanged:
                trained_before = rows.get(row - 1, [])[: max(row, 0)]
                cells[: len(trained_before)] = trained_before
            for index, cell in own.get(row, ()):
                cells[index] = cell
            rows[row] = cells
        return rows


def read_evaluations(folder: RunFolder, strict: bool = False) -> Evaluations:
    """The evaluations of a run so far.

    Args:
        folder: of the run.
        strict: refuse a damaged line; otherwise the lines before it are returned.

    Raises:
        ValueError: a line is damaged, and `strict`.
    """
    lines, unchanged = list[Mapping[str, Any]](), set[int]()
    for line in folder.lines(FILE, strict):
        if line.get(UNCHANGED) is True and type(line.get("after")) is int and line.keys() == MARK:
            unchanged.add(line["after"])
        else:
            lines.append(line)
    return Evaluations(lines, frozenset(unchanged))


def unchanged_line(row: int) -> dict[str, Any]:
    """The line of a row whose other tasks have the values of the row before."""
    return {"after": row, UNCHANGED: True}


MARK = unchanged_line(0).keys()
