"""Metrics of each class, and the confusion matrix; imports no torch, so that reports read them too."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

CONFUSION = "confusion.csv"
"""Document with a line for each pair of classes that occurs: true, predicted, count."""
CLASSES = "classes.csv"
"""Document with a line for each class."""
TASK_CONFUSION = "task_confusion.csv"
"""Document of an evaluation without task ids: of the examples of a task, for how many a class of each task
was predicted."""
CONFUSION_COLUMNS = ("true", "predicted", "count")
CLASS_COLUMNS = ("class", "examples", "correct", "predicted", "recall", "precision", "f1")


@attrs.frozen
class ClassMetrics:
    """Counts of one class, or of one label of several, and what follows from them, in [0, 1]."""

    name: str
    count: int
    """Number of examples that have the class."""
    correct: int
    """Number of these for which it was predicted."""
    predicted: int
    """Number of examples for which it was predicted."""

    @property
    def recall(self) -> float | None:
        """Fraction of the examples of the class for which it was predicted; None without examples."""
        return self.correct / self.count if self.count else None

    @property
    def precision(self) -> float | None:
        """Fraction of the predictions of the class that are right; None if it was never predicted."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of recall and precision; None for a class that neither occurs nor is predicted."""
        total = self.count + self.predicted
        return 2 * self.correct / total if total else None


@attrs.frozen
class Confusion:
    """How often a class was predicted for examples of a class."""

    true: str
    predicted: str
    count: int


@attrs.frozen(eq=False)
class ClassCounts:
    """The confusion matrix of a classification, without its zeros.

    Args:
        names: of the K classes in order, distinct.
        true: (P,) classes of examples, from 0.
        predicted: (P,) classes that were predicted for them.
        counts: (P,) numbers of examples of each pair.
    """

    names: Sequence[str]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, true: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]) -> ClassCounts:
        """The counts for the classes (N,) and the predictions (N,) of all examples."""
        width = len(names)
        # as np.unique does, which imports masked arrays
        ordered = np.sort(true * width + predicted)
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        pairs, counts = ordered[starts], np.diff(starts, append=len(ordered))
        return cls(names, pairs // width, pairs % width, counts)

    def classes(self) -> tuple[ClassMetrics, ...]:
        """Of each class, in order."""
        hit = self.true == self.predicted
        totals = (
            self._sum(self.true, self.counts),
            self._sum(self.true[hit], self.counts[hit]),
            self._sum(self.predicted, self.counts),
        )
        return tuple(ClassMetrics(name, *numbers) for name, *numbers in zip(self.names, *totals, strict=True))

    def confusions(self) -> list[Confusion]:
        """All pairs that occur, in the order of the classes."""
        columns = (self.true.tolist(), self.predicted.tolist(), self.counts.tolist())
        return [Confusion(self.names[i], self.names[j], n) for i, j, n in zip(*columns, strict=True)]

    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have examples."""
        return balanced_accuracy(self.classes())

    def documents(self) -> dict[str, str]:
        """`CONFUSION` and `CLASSES`."""
        rows = [(one.true, one.predicted, one.count) for one in self.confusions()]
        return {CONFUSION: _csv(CONFUSION_COLUMNS, rows), CLASSES: classes_csv(self.classes())}

    def _sum(self, classes: NDArray[np.int64], counts: NDArray[np.int64]) -> list[int]:
        totals = np.zeros(len(self.names), np.int64)
        np.add.at(totals, classes, counts)
        return totals.tolist()


def balanced_accuracy(classes: Sequence[ClassMetrics]) -> float:
    """Mean recall of the classes that have examples."""
    recalls = [one.recall for one in classes if one.recall is not None]
    return sum(recalls) / len(recalls)


def classes_csv(classes: Sequence[ClassMetrics]) -> str:
    """The document `CLASSES`; undefined values are empty."""
    return _csv(
        CLASS_COLUMNS,
        [
            (one.name, one.count, one.correct, one.predicted, one.recall, one.precision, one.f1)
            for one in classes
        ],
    )


def read_classes(documents: Mapping[str, str]) -> tuple[ClassMetrics, ...]:
    """The classes of the documents of an evaluation; none where there is no `CLASSES`.

    Raises:
        ValueError: it is damaged.
    """
    rows = _read(CLASSES, documents, CLASS_COLUMNS)
    return tuple(ClassMetrics(row[0], int(row[1]), int(row[2]), int(row[3])) for row in rows)


def task_confusion(true: str, ids: Sequence[str], counts: Sequence[int]) -> str:
    """The document `TASK_CONFUSION`, a line for each task.

    Args:
        true: id of the task that the examples belong to.
        ids: of all tasks.
        counts: of the examples for which a class of each of these was predicted.
    """
    return _csv(CONFUSION_COLUMNS, [(true, id, count) for id, count in zip(ids, counts, strict=True)])


def read_task_confusion(documents: Mapping[str, str]) -> list[Confusion]:
    """The counts of the document `TASK_CONFUSION`; none where there is no such document.

    Raises:
        ValueError: it is damaged.
    """
    rows = _read(TASK_CONFUSION, documents, CONFUSION_COLUMNS)
    return [Confusion(row[0], row[1], int(row[2])) for row in rows]


def read_confusions(documents: Mapping[str, str]) -> list[Confusion]:
    """The pairs of classes of the documents of an evaluation; none where there is no `CONFUSION`.

    Raises:
        ValueError: it is damaged.
    """
    rows = _read(CONFUSION, documents, CONFUSION_COLUMNS)
    return [Confusion(row[0], row[1], int(row[2])) for row in rows]


class _Lines(list[str]):
    """A file for `csv.writer`, which quotes a ``\\r`` or ``\\n`` only where lines end with both."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n"))


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = _Lines()
    csv.writer(lines).writerows([header, *rows])
    text = "\n".join([*lines, ""])
    return text.encode(errors="backslashreplace").decode()  # names of files may be no Unicode


def _read(name: str, documents: Mapping[str, str], header: Sequence[str]) -> list[list[str]]:
    text = documents.get(name)
    if text is None:
        return []
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if rows[:1] != [list(header)] or any(len(row) != len(header) for row in rows):
        raise ValueError(f"the columns of {name} are not {', '.join(header)}")
    return rows[1:]
