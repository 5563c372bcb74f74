"""What a report says of classes: which are recognised badly, and which are confused, in the last row of R."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from sidetune_core.io.files import read_bytes
from sidetune_core.io.printable import one_line
from sidetune_core.results.metrics import Results
from sidetune_core.storage.run_files import DOCUMENTS
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.supervised.class_metrics import (
    CLASSES,
    CONFUSION,
    ClassMetrics,
    Confusion,
    balanced_accuracy,
    read_classes,
    read_confusions,
)

SHOWN_TASKS = 5
"""Tasks of which classes are listed: those with the lowest balanced accuracy."""
SHOWN = 3
"""Classes and pairs that are listed of each, at most."""
WIDTH = 80
NAME = 16
"""Characters of a name that are shown."""
SPLIT = "test"


@attrs.frozen
class TaskClasses:
    """The classes of a task in its latest evaluation."""

    task: str
    classes: tuple[ClassMetrics, ...]
    confusions: tuple[Confusion, ...]
    """Empty for a task of independent labels."""

    @property
    def accuracy(self) -> float:
        """Fraction of the examples (of labels: of the labels that apply) that are recognised."""
        return sum(one.correct for one in self.classes) / sum(one.count for one in self.classes)

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have examples."""
        return balanced_accuracy(self.classes)


def class_lines(folder: RunFolder, results: Results, split: str = SPLIT) -> tuple[str, ...]:
    """A headline, and lines for the tasks in which classes are recognised badly; empty if there is none.

    Args:
        folder: of the run.
        results: of the run, which say what tasks have been trained.
        split: of R.

    Raises:
        OSError, ValueError: a document is damaged.
    """
    last = results.rows[-1] if results.rows else [None] * len(results.tasks)
    tasks = [task for task, cell in zip(results.tasks, last, strict=True) if cell is not None]
    measured = [found for task in tasks if (found := _read(folder, task, split)) is not None]
    faulty = [one for one in measured if one.balanced_accuracy < 1]
    if not faulty:
        return ()
    worst = sorted(faulty, key=lambda one: one.balanced_accuracy)[:SHOWN_TASKS]
    shown = [one for one in faulty if one in worst]  # in the order of the stream
    count = f"the {len(shown)} tasks of {len(measured)} with the lowest balanced accuracy"
    which = count if len(shown) < len(faulty) else "all tasks with errors"
    lines = [f"classes, {which} ({DOCUMENTS}/TASK-{split}/ has them all):"]
    for one in shown:
        lines += _task_lines(one)
    return tuple(one_line(line) for line in lines)


def _task_lines(one: TaskClasses) -> list[str]:
    accuracy, balanced = _percent(one.accuracy), _percent(one.balanced_accuracy)
    what = "accuracy" if one.confusions else "recall"
    mean = f", balanced {balanced}" if balanced != accuracy else ""
    present = [(each.recall, each) for each in one.classes if each.recall is not None]
    lowest = [pair for pair in sorted(present, key=lambda pair: pair[0]) if pair[0] < 1]
    classes = [f"{_name(each.name)} {_percent(value)} of {each.count:,}" for value, each in lowest]
    lines = [f"  {one.task}: {what} {accuracy}{mean}", _fitting("    lowest recall: ", classes)]
    wrong = [pair for pair in one.confusions if pair.true != pair.predicted]
    if wrong:
        most = sorted(wrong, key=lambda pair: -pair.count)
        pairs = [f"{_name(pair.true)} as {_name(pair.predicted)} ({pair.count:,})" for pair in most]
        lines.append(_fitting("    most confused: ", pairs))
    return lines


def _fitting(line: str, items: Sequence[str]) -> str:
    """A line with as many of the first `SHOWN` items as fit, at least one."""
    line += items[0]
    for item in items[1:SHOWN]:
        if len(line) + len(item) + 2 > WIDTH:
            break
        line += f", {item}"
    return line


def _read(folder: RunFolder, task: str, split: str) -> TaskClasses | None:
    """None for a task without classes, such as one of a run of an earlier version."""
    place = folder.path / DOCUMENTS / f"{task}-{split}"
    documents = {name: _text(place / name) for name in (CLASSES, CONFUSION) if (place / name).is_file()}
    try:
        classes, confusions = read_classes(documents), read_confusions(documents)
    except ValueError as error:
        raise ValueError(f"{place.name}: {error}") from error
    if not any(one.count for one in classes):
        return None
    return TaskClasses(task, classes, tuple(confusions))


def _text(path: Path) -> str:
    return read_bytes(path).decode()


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _name(name: str) -> str:
    """In quotes, since names may be numbers."""
    line = one_line(name)
    return f"'{line if len(line) <= NAME else f'{line[: NAME - 1]}…'}'"
