"""How a table is set: in aligned columns for a terminal, or as Markdown, LaTeX or CSV.

A table is its rows, the head first. Cells are text; in a head they may have several lines.
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
    """Columns `gap` apart, those in `left` set to the left, the others to the right."""
    rows = [*_head_rows(table), *table[1:]]
    columns = []
    for i, column in enumerate(zip(*rows, strict=True)):
        width = max(map(len, column))
        columns.append([cell.ljust(width) if i in left else cell.rjust(width) for cell in column])
    return "\n".join((" " * gap).join(line).rstrip() for line in zip(*columns, strict=True))


def markdown(table: Table, left: Collection[int] = (0,)) -> str:
    """A pipe table, the columns in `left` set to the left."""
    rule = [":---" if i in left else "---:" for i in range(len(table[0]))]
    cells = [[cell.replace("\n", " ").replace("|", r"\|") for cell in row] for row in table]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])


def latex(table: Table, left: Collection[int] = (0,)) -> str:
    """A ``tabular`` that needs the package booktabs and no other."""
    head, body = (
        [" & ".join(map(_escaped, row)) + r" \\" for row in rows] for rows in (_head_rows(table), table[1:])
    )
    columns = "".join("l" if i in left else "r" for i in range(len(table[0])))
    begin = rf"\begin{{tabular}}{{{columns}}}"
    return "\n".join([begin, r"\toprule", *head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def typeset(table: Table, layout: Layout, left: Collection[int] = (0,)) -> str:
    """In the layout that is asked for."""
    setters: dict[Layout, Callable[[Table, Collection[int]], str]] = {
        "text": aligned,
        "markdown": markdown,
        "latex": latex,
    }
    return setters[layout](table, left)


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


def _escaped(cell: str) -> str:
    """As LaTeX prints it, with a minus that is longer than a hyphen."""
    text = "".join(_LATEX.get(character, character) for character in cell)
    return re.sub(r"^-(?=[\d.])", "$-$", text)


def _head_rows(table: Table) -> list[list[str]]:
    """The head as one row for each of its lines; the cells end level."""
    heads = [cell.split("\n") for cell in table[0]]
    height = max(map(len, heads))
    return [list(row) for row in zip(*([""] * (height - len(head)) + head for head in heads), strict=True)]
