"""What reports say of runs in which the task of an example is not known at test time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sidetune_core.io.files import read_bytes
from sidetune_core.results.metrics import Results
from sidetune_core.scenarios import title
from sidetune_core.storage.run_files import DOCUMENTS
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.supervised.class_metrics import TASK_CONFUSION, Confusion, read_task_confusion

T = TypeVar("T")

SHOWN = 5
"""Confusions between tasks that are listed, at most: the largest fractions."""


def by_scenario(items: Sequence[T], scenario: Callable[[T], str]) -> list[list[T]]:
    """The runs or methods of each scenario, in the order of their first; tables never mix scenarios."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(scenario(item), []).append(item)
    return list(groups.values())


def with_scenario(spec_line: str, scenario: str) -> str:
    """The spec of a run in a line, with its scenario: those of the task-incremental one do not name it."""
    name = title(scenario)
    return spec_line if name in spec_line.split(" · ") else f"{spec_line} · {name}"


def confusion_lines(folder: RunFolder, results: Results, split: str) -> tuple[str, ...]:
    """How often a class of another task was predicted, in the latest evaluation of each task, with a
    headline; empty in other scenarios than ``class``, and where it did not happen.

    Raises:
        OSError, ValueError: a document is damaged.
    """
    wrong: list[tuple[float, Confusion]] = []
    for task in results.tasks[: len(results.rows)]:
        path = folder.path / DOCUMENTS / f"{task}-{split}" / TASK_CONFUSION
        if not path.is_file():
            continue
        rows = read_task_confusion({TASK_CONFUSION: _text(path)})
        total = sum(row.count for row in rows)
        wrong += [(row.count / total, row) for row in rows if row.count and row.predicted != row.true]
    if not wrong:
        return ()
    largest = sorted(wrong, key=lambda pair: -pair[0])[:SHOWN]
    lines = [
        f"  examples of {row.true} predicted as classes of {row.predicted}: {100 * fraction:.1f} %"
        for fraction, row in largest
    ]
    what = "largest confusions between tasks" if len(lines) < len(wrong) else "confusions between tasks"
    return (f"{what} ({DOCUMENTS}/TASK-{split}/{TASK_CONFUSION} has them all):", *lines)


def _text(path: Path) -> str:
    return read_bytes(path).decode()
