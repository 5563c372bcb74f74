"""Typesetting of tables: aligned columns for a terminal, Markdown, LaTeX, CSV.

A table is a list of rows, the header first. Cells are text; header cells may have several lines. Control
characters in them are escaped (see `printable`), and so is what would end a cell or a line in a layout.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from sidetune_core.io.printable import one_line

Layout = Literal["text", "markdown", "latex"]
Format = Literal["text", "markdown", "csv", "latex"]
Table = Sequence[Sequence[str]]


def aligned(table: Table, left: Collection[int] = (0,), gap: int = 2) -> str:
    """Columns separated by `gap` blanks; those in `left` are aligned left, the others right."""
    rows = [*_header_rows(table), *([one_line(cell) for cell in row] for row in table[1:])]
    columns = []
    for i, column in enumerate(zip(*rows, strict=True)):
        width = max(map(len, column))
        columns.append([cell.ljust(width) if i in left else cell.rjust(width) for cell in column])
    return "\n".join((" " * gap).join(line).rstrip() for line in zip(*columns, strict=True))


def markdown(table: Table, left: Collection[int] = (0,)) -> str:
    """A pipe table; the columns in `left` are aligned left."""
    rule = [":---" if i in left else "---:" for i in range(len(table[0]))]
    cells = [[markdown_text(cell) for cell in row] for row in table]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])


def markdown_text(text: str) -> str:
    """Text of others for a line of Markdown: it is no code, no HTML, no link, and ends no cell."""
    line = one_line(text.replace("\n", " ")).replace("\\", r"\\")
    return re.sub(r"[`|]", r"\\\g<0>", line).replace("<", "&lt;").replace("](", r"]\(")


def markdown_code(text: str) -> str:
    """Text of others as code in a line of Markdown."""
    line = one_line(text)
    ticks = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{ticks} {line} {ticks}" if len(ticks) > 1 else f"`{line}`"


def latex_comment(text: str) -> str:
    """Text of others as a comment."""
    return f"% {one_line(text)}"


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
    """CSV of plain values in full precision; None is an empty cell.

    A text that a spreadsheet would compute as a formula (``=…``, ``+…``, ``-…``, ``@…``) is preceded by an
    apostrophe.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([map(_csv_cell, row) for row in table])
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


def _csv_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    line = one_line(value)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def _escape(cell: str) -> str:
    """The cell with special characters escaped and a proper minus sign."""
    text = "".join(_LATEX.get(character, character) for character in one_line(cell))
    return re.sub(r"^-(?=[\d.])", "$-$", text)


def _header_rows(table: Table) -> list[list[str]]:
    """The header as one row for each of its lines, aligned at the bottom."""
    cells = [cell.split("\n") for cell in table[0]]
    height = max(map(len, cells))
    padded = [[""] * (height - len(lines)) + [one_line(line) for line in lines] for lines in cells]
    return [list(row) for row in zip(*padded, strict=True)]
