"""Typesetting of tables: aligned columns for a terminal, Markdown, LaTeX, CSV.

A table is a list of rows, the header first. Cells are text; header cells may have several lines.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Sequence
from typing import Literal

Layout = Literal["text", "markdown", "latex"]
Format = Literal["text", "markdown", "csv", "latex"]
Table = Sequence[Sequence[str]]


def aligned(table: Table, left: Collection[int] = (0,), gap: int = 2) -> str:
    """Columns separated by `gap` blanks; those in `left` are aligned left, the others right."""
    rows = [*_header_rows(table), *table[1:]]
    columns = []
    for i, column in enumerate(zip(*rows, strict=True)):
        width = max(map(len, column))
        columns.append([cell.ljust(width) if i in left else cell.rjust(width) for cell in column])
    return "\n".join((" " * gap).join(line).rstrip() for line in zip(*columns, strict=True))


def markdown(table: Table, left: Collection[int] = (0,)) -> str:
    """A pipe table; the columns in `left` are aligned left."""
    rule = [":---" if i in left else "---:" for i in range(len(table[0]))]
    cells = [[cell.replace("\n", " ").replace("|", r"\|") for cell in row] for row in table]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])


def latex(table: Table, left: Collection[int] = (0,)) -> str:
    """A ``tabular`` environment; it needs only the package booktabs."""
    header, body = (
        [" & ".join(map(_escape, row)) + r" \\" for row in rows] for rows in (_header_rows(table), table[1:])
    )
    columns = "".join("l" if i in left else "r" for i in range(len(table[0])))
    begin = rf"\begin{{tabular}}{{{columns}}}"
    return "\n".join([begin, r"\toprule", *header, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def typeset(table: Table, layout: Layout, left: Collection[int] = (0,)) -> str:
    """The table in a layout."""
    typesetters: dict[Layout, Callable[[Table, Collection[int]], str]] = {
        "text": aligned,
        "markdown": markdown,
        "latex": latex,
    }
    return typesetters[layout](table, left)


def comma_separated(table: Sequence[Sequence[object]]) -> str:
    """CSV of plain values in full precision; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue().removesuffix("\n")


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def _escape(cell: str) -> str:
    """The cell with special characters escaped and a proper minus sign."""
    text = "".join(_LATEX.get(character, character) for character in cell)
    return re.sub(r"^-(?=[\d.])", "$-$", text)


def _header_rows(table: Table) -> list[list[str]]:
    """The header as one row for each of its lines, aligned at the bottom."""
    cells = [cell.split("\n") for cell in table[0]]
    height = max(map(len, cells))
    padded = [[""] * (height - len(lines)) + lines for lines in cells]
    return [list(row) for row in zip(*padded, strict=True)]
