"""From the rows of a table to sets of files with their targets."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import torch

from sidetune_core.api import DataError, shorten

from .account import Account, counted
from .image_set import SPLITS, Files, ImageSet, Targets, class_files
from .layout import SPLIT_NAMES
from .splits import SKIP
from .tables import Table

NO_FILE = "name a file that does not exist"

SPLIT, TASK = "split", "task"
SEPARATORS = re.compile("[;|]")
"""Between the labels of an image."""
TRUTH = {"1": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "false": 0.0, "no": 0.0}


@attrs.frozen
class Row:
    """A row of the table that is valid."""

    path: str
    task: str
    split: str
    label: object
    """Class, tuple of labels, or tuple of numbers."""


@attrs.frozen(eq=False)
class TableReader:
    """Makes sets of a table.

    Args:
        path_column: name of the column of paths.
        label_columns: names of the columns of labels.
        targets: what a label is.
        base: folder that paths are relative to.
        skip: leave rows out that cannot be used; an error otherwise.
        account: of what is read.
    """

    path_column: str
    label_columns: tuple[str, ...]
    targets: Targets
    base: str
    skip: bool
    account: Account

    def sets(self, table: Table) -> list[ImageSet]:
        """A set for each task, in the order in which the table first names them.

        Raises:
            DataError: a row cannot be used; all of them are counted.
        """
        rows = self._rows(table)
        if not rows:
            raise DataError(f"{table.path} (--env.table) has no rows that can be used")
        tasks: dict[str, list[Row]] = {}
        for row in rows:
            tasks.setdefault(row.task, []).append(row)
        if self.targets == "class" and (several := _several(str(row.label) for row in rows)):
            self.account.notes.append(
                f"'{several}' is one class; for several labels an image, pass --env.targets labels"
            )
        return [self._set(name, rows) for name, rows in tasks.items()]

    def _rows(self, table: Table) -> list[Row]:
        offenders: dict[str, list[str]] = {}
        rows: list[Row] = []
        seen: set[tuple[str, str]] = set()
        read = {"class": self._class, "labels": self._labels, "values": self._values}[self.targets]
        for index, line in enumerate(table.lines):
            cells = {name: column[index] for name, column in table.columns.items()}
            row, problem = self._row(cells, read)
            if not problem and (row.path, row.task) in seen:
                problem = "name a file again"
            if problem:
                offenders.setdefault(problem, []).append(_where(cells[self.path_column], line))
            else:
                seen.add((row.path, row.task))
                rows.append(row)
        self._report(table, offenders)
        return rows

    def _row(
        self, cells: Mapping[str, str], read: Callable[[Mapping[str, str]], tuple[object, str]]
    ) -> tuple[Row, str]:
        """A row, and what is wrong with it."""
        label, problem = read(cells)
        path = os.path.normpath(os.path.join(self.base, cells[self.path_column]))
        split = SPLIT_NAMES.get(cells.get(SPLIT, "train").lower(), "")
        row = Row(path, cells.get(TASK, ""), split, label)
        if not cells[self.path_column]:
            return row, "have no path"
        if not split:
            return row, f"have a {SPLIT} that is none of {', '.join(SPLITS)}"
        if TASK in cells and not row.task:
            return row, "have no task"
        if not problem and not os.path.isfile(path):
            problem = NO_FILE
        return row, problem

    def _class(self, cells: Mapping[str, str]) -> tuple[object, str]:
        label = cells[self.label_columns[0]]
        return label, "" if label else "have no label"

    def _labels(self, cells: Mapping[str, str]) -> tuple[object, str]:
        if len(self.label_columns) == 1:
            parts = SEPARATORS.split(cells[self.label_columns[0]])
            return tuple(dict.fromkeys(name for part in parts if (name := part.strip()))), ""
        truth = [TRUTH.get(cells[name].lower()) for name in self.label_columns]
        labels = tuple(name for name, value in zip(self.label_columns, truth, strict=True) if value)
        return labels, "have labels other than 0 and 1" if None in truth else ""

    def _values(self, cells: Mapping[str, str]) -> tuple[object, str]:
        values = tuple(_number(cells[name]) for name in self.label_columns)
        return values, "" if all(map(math.isfinite, values)) else "have a value that is no finite number"

    def _report(self, table: Table, offenders: Mapping[str, Sequence[str]]) -> None:
        """Raise an error about rows, or count them as left out."""
        if not offenders:
            return
        total = len(table)
        if self.skip:
            self.account.left_out.others += [
                f"{counted(len(places), 'row')} that {problem if len(places) > 1 else _singular(problem)}"
                for problem, places in offenders.items()
            ]
            return
        listed = "; ".join(
            f"{len(places):,} of {total:,} rows {problem}: {shorten(places)}"
            for problem, places in offenders.items()
        )
        if len(offenders.get(NO_FILE, ())) == total:
            raise DataError(f"{table.path}: {listed}; paths are relative to {self.base} (--env.root)")
        raise DataError(f"{table.path}: {listed}; {SKIP}")

    def _set(self, name: str, rows: Sequence[Row]) -> ImageSet:
        splits = {split: [row for row in rows if row.split == split] for split in SPLITS}
        splits = {split: of_split for split, of_split in splits.items() if of_split or split == "train"}
        if not splits["train"]:
            of = f" of task '{name}'" if name else ""
            raise DataError(f"the table has no rows of split 'train'{of}")
        if self.targets == "class":
            names = _sorted_names({str(row.label) for row in rows})
            files = {split: class_files(_by_class(of_split), names) for split, of_split in splits.items()}
            return ImageSet(name, names, files, self.base)
        if self.targets == "labels":
            return self._label_set(name, splits)
        files = {
            split: Files(
                [row.path for row in of_split],
                torch.tensor([row.label for row in of_split], dtype=torch.float32),
            )
            for split, of_split in splits.items()
        }
        return ImageSet(name, self.label_columns, files, self.base, "values")

    def _label_set(self, name: str, splits: Mapping[str, Sequence[Row]]) -> ImageSet:
        labels = {split: [_as_labels(row.label) for row in of_split] for split, of_split in splits.items()}
        if len(self.label_columns) > 1:
            names: tuple[str, ...] = self.label_columns
        else:
            names = _sorted_names({label for each in labels.values() for row in each for label in row})
        if not names:
            raise DataError(f"no image has a label in column '{self.label_columns[0]}' (--env.label-column)")
        column = {label: place for place, label in enumerate(names)}
        files = {}
        for split, of_split in splits.items():
            targets = torch.zeros(len(of_split), len(names))
            for index, row in enumerate(labels[split]):
                targets[index, [column[label] for label in row]] = 1.0
            files[split] = Files([row.path for row in of_split], targets)
        return ImageSet(name, names, files, self.base, "labels")


def _several(labels: Iterable[str]) -> str:
    """The first class whose name is made of names; empty if there is none."""
    return next((label for label in labels if len(list(filter(None, SEPARATORS.split(label)))) > 1), "")


def _as_labels(label: object) -> tuple[str, ...]:
    assert isinstance(label, tuple)
    return label


def _by_class(rows: Sequence[Row]) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    for row in rows:
        classes.setdefault(str(row.label), []).append(row.path)
    return classes


def _sorted_names(names: set[str]) -> tuple[str, ...]:
    """Names in their order; integers by their value."""
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", name) for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _where(path: str, line: int) -> str:
    return f"line {line} ({path})" if path else f"line {line}"


def _singular(problem: str) -> str:
    return problem.replace("have ", "has ", 1).replace("name a", "names a", 1)
