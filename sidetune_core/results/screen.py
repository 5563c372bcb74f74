"""Tables and lines that fit a terminal: columns are left out, texts are cut, lines are wrapped between words.

A pipe has no width, so nothing is lost on the way to a file; short heads and wrapping are for readers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence

import attrs

from sidetune_core.results.tables import Table, aligned

NARROWEST = 16
"""Characters of a text that is cut; a table of more columns than fit is wider than the screen."""


@attrs.frozen
class Screen:
    """How much room there is, and how much is printed."""

    width: int | None = None
    """In characters; None for no limit."""
    long: bool = True
    """Whether metrics are printed with their definitions and sources, and tables with all columns."""


FULL = Screen()


def fitted(table: Table, left: Collection[int], screen: Screen, order: Sequence[int] = ()) -> str:
    """The table as aligned columns that fit the screen.

    Args:
        table: its rows, the header first.
        left: columns that are aligned left; the first two of them are cut if leaving out columns is not
            enough.
        screen: where it is printed.
        order: columns that may be left out, the least important first.
    """
    dropped: list[int] = []
    text = aligned(table, left)
    for column in order:
        if not _is_too_wide(text, screen):
            break
        dropped.append(column)
        text = aligned(*_without(table, left, dropped))
    kept, left = _without(table, left, dropped)
    for column in sorted(left, reverse=True)[-2:]:
        if screen.width is not None and (excess := _width(text) - screen.width) > 0:
            longest = max(len(row[column]) for row in kept)
            kept = [_cut(row, column, max(NARROWEST, longest - excess)) for row in kept]
            text = aligned(kept, left)
    if not dropped:
        return text
    names = ", ".join(" ".join(table[0][column].split()) for column in sorted(dropped))
    return f"{text}\n{wrapped([f'left out to fit the screen: {names}; --long shows them'], screen)}"


def wrapped(lines: Iterable[str], screen: Screen, indent: int = 2) -> str:
    """The lines, wrapped between words; further lines of one are indented."""
    if screen.width is None:
        return "\n".join(lines)
    return "\n".join(_wrap(line, screen.width, indent) for line in lines)


def _wrap(line: str, width: int, indent: int) -> str:
    if len(line) <= width:
        return line
    own = len(line) - len(line.lstrip())
    return textwrap.fill(
        line.lstrip(),
        max(width, own + indent + NARROWEST),
        initial_indent=" " * own,
        subsequent_indent=" " * (own + indent),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _is_too_wide(text: str, screen: Screen) -> bool:
    return screen.width is not None and _width(text) > screen.width


def _width(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def _without(
    table: Table, left: Collection[int], dropped: Collection[int]
) -> tuple[list[list[str]], set[int]]:
    """The table without some columns, and its columns that are aligned left."""
    kept = [column for column in range(len(table[0])) if column not in dropped]
    cells = [[row[column] for column in kept] for row in table]
    return cells, {new for new, column in enumerate(kept) if column in left}


def _cut(row: Sequence[str], column: int, length: int) -> list[str]:
    cells = list(row)
    if len(cells[column]) > length:
        cells[column] = cells[column][: length - 1] + "…"
    return cells
