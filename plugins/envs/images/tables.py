"""Tables of image files and their labels: CSV, TSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.api import DataError, PluginError, shorten

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
Rows = Iterator[tuple[int, list[str]]]


@attrs.frozen(eq=False)
class Table:
    """The columns of a table that are used, as text."""

    path: Path
    columns: Mapping[str, list[str]]
    """Cells by the name of the column; all are of one length."""
    lines: Sequence[int]
    """Where each row is: the line of a text file, the number of the row in Parquet."""
    delimiter: str = ""
    """Of a text file."""

    def __len__(self) -> int:
        return len(self.lines)

    def words(self) -> str:
        """``columns path, label of photos.csv, divided by semicolons``"""
        divided = f", divided by {DELIMITERS[self.delimiter]}" if self.delimiter not in ("", ",") else ""
        return f"columns {', '.join(self.columns)} of {self.path.name}{divided}"


def read_table(path: Path, needed: Sequence[str], optional: Sequence[str]) -> Table:
    """Read some columns of a table.

    Args:
        path: ``.csv``, ``.tsv`` or ``.txt`` in UTF-8, or ``.parquet``.
        needed: names of columns.
        optional: names of columns that are read where they exist.

    Raises:
        DataError: the file is missing or damaged, or has no such column.
        PluginError: Parquet files need a library that is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} (--env.table) is no table: expected {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"no file {path} (--env.table)")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, needed, optional)
    try:
        return _read_text(path, needed, optional)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not in UTF-8 (byte {error.start:,}: {error.reason}); save it as CSV in UTF-8"
        ) from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {_reason(error)}") from error


def _read_text(path: Path, needed: Sequence[str], optional: Sequence[str]) -> Table:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(path, needed)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = [name.strip() for name in next(reader, [])]
        places = _places(path, header, needed, optional)
        columns: dict[str, list[str]] = {name: [] for name in places}
        lines, uneven = [], []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                uneven.append(reader.line_num)
                continue
            lines.append(reader.line_num)
            for name, place in places.items():
                columns[name].append(row[place].strip())
    if uneven:
        raise DataError(
            f"{path}: {len(uneven):,} of {len(uneven) + len(lines):,} rows have not the {len(header)} "
            f"columns of the first line: line {shorten(uneven)}; quote cells that contain "
            f"{DELIMITERS[delimiter]}"
        )
    return Table(path, columns, lines, delimiter)


def _delimiter(path: Path, needed: Sequence[str]) -> str:
    """The delimiter with which the first line has the needed columns, or else most columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline(2**20)

    def fit(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        return len(set(needed) & set(names)), len(names)

    return max(DELIMITERS, key=fit)  # the first of equal ones


def _places(
    path: Path, header: Sequence[str], needed: Sequence[str], optional: Sequence[str]
) -> dict[str, int]:
    """Where the columns are.

    Raises:
        DataError: a column is missing, or there are two of it.
    """
    if missing := [name for name in needed if name not in header]:
        have = shorten(header, 12) or "no columns"
        kind = "columns" if len(missing) > 1 else "column"
        raise DataError(
            f"{path} has no {kind} {', '.join(map(repr, missing))}; it has {have}. Name them with "
            "--env.path-column and --env.label-column"
        )
    wanted = [*needed, *(name for name in optional if name in header)]
    if double := [name for name in wanted if header.count(name) > 1]:
        raise DataError(f"{path} has several columns {', '.join(map(repr, double))}; rename all but one")
    return {name: header.index(name) for name in wanted}


def _read_parquet(path: Path, needed: Sequence[str], optional: Sequence[str]) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise PluginError(
            f"{path}: Parquet files need pyarrow, which is not installed: pip install 'sidetune[tables]'"
        ) from error
    try:
        header = list(parquet.read_schema(path).names)
        names = list(_places(path, header, needed, optional))
        read = parquet.read_table(path, columns=names)
        columns = {name: [_cell(value) for value in read.column(name).to_pylist()] for name in names}
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {_reason(error)}") from error
    return Table(path, columns, range(1, read.num_rows + 1))


def _cell(value: Any) -> str:
    """A value as a text file has it; a list is written with semicolons."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ";".join(map(_cell, value))
    if isinstance(value, float) and value.is_integer():  # integers with gaps are floats in pandas
        return str(int(value))
    return str(value).strip()


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
