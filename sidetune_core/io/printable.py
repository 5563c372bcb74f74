"""Control characters in what others wrote, shown escaped: ``\\x1b[2J`` does not clear the terminal.

Data, titles, folder names, metadata of packages and messages of plugins can hold any character. Those that
move the cursor, change the order of the letters, or end a line would let a file forge what is printed. They
are escaped where text leaves the program: `escaped_output` for the streams of the command line, `Progress`,
`results.tables`, ``report.md`` and ``log.txt``.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: controls (ESC, C1), formats (bidirectional overrides, zero width), lone surrogates,
separators of lines and paragraphs."""

JOINERS = "\u200c\u200d"
"""Formats that words of some scripts and emoji need."""

COLOUR = r"\x1b\[[0-9;]*m"


def printable(text: str, lines: bool = True) -> str:
    """The text with control characters escaped as in a Python string.

    Args:
        text: any text.
        lines: keep line breaks and tabs; otherwise they are escaped too, and the result is one line.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_kept if lines else _shown, text))


def one_line(text: object) -> str:
    """The text in one line, for a value within a line of output."""
    return printable(str(text), lines=False)


def counted(number: int, noun: str) -> str:
    """``1 task``, ``2 tasks``; the plural of `noun` ends in s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def indented(text: object) -> str:
    """The text with its further lines indented, so that none of them looks like a line of its own."""
    return printable(str(text).rstrip()).replace("\n", "\n  ")


def _kept(character: str) -> str:
    return character if character in "\n\t" else _shown(character)


def _shown(character: str) -> str:
    if character.isprintable() or character in JOINERS:
        return character
    if unicodedata.category(character) in UNPRINTABLE:
        return character.encode("unicode_escape").decode("ascii")
    return character  # an unusual blank, or a letter of a later Unicode


class EscapedStream:
    """A text stream that escapes control characters; everything else is that of `unescaped`.

    Args:
        unescaped: the stream to write to.
    """

    def __init__(self, unescaped: Any) -> None:
        self.unescaped = unescaped
        self.allows_colours = False

    def write(self, text: str) -> int:
        """Write the text with control characters escaped."""
        if self.allows_colours:
            if os.environ.get("NO_COLOR"):
                text = re.sub(COLOUR, "", text)
            parts = re.split(f"({COLOUR})", text)
            self.unescaped.write(
                "".join(part if index % 2 else printable(part) for index, part in enumerate(parts))
            )
        else:
            self.unescaped.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


@contextmanager
def escaped_output() -> Iterator[None]:
    """Within the block, whatever is printed has its control characters escaped."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _escaped(sys.stdout), _escaped(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def colours_allowed() -> Iterator[None]:
    """Within the block, sequences that set a colour are printed: help texts have them. With ``$NO_COLOR``
    they are removed (https://no-color.org)."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, EscapedStream)]
    for stream in streams:
        stream.allows_colours = True
    try:
        yield
    finally:
        for stream in streams:
            stream.allows_colours = False


def unescaped(stream: Any) -> Any:
    """The stream behind an `EscapedStream`, for progress bars, which move the cursor."""
    return stream.unescaped if isinstance(stream, EscapedStream) else stream


def _escaped(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, EscapedStream) else EscapedStream(stream)
