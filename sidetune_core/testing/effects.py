"""Side effects of a plugin while it is checked: what it prints, and files that it leaves behind."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import attrs

LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python", "<frozen ")
"""Parts of the paths of code that may write messages: warnings, logs and progress bars."""
KIT = str(Path(__file__).parents[1])


@attrs.define(eq=False)
class Effects:
    """What was seen so far."""

    printed: io.StringIO = attrs.field(factory=io.StringIO)
    """Standard output."""
    complained: list[str] = attrs.field(factory=list)
    """What plugins wrote to standard error themselves."""
    written: list[str] = attrs.field(factory=list)
    """Files in the current folder that were opened for writing."""


_watching: list[Effects] = []


@contextmanager
def watched() -> Iterator[Effects]:
    """Within the block, note side effects; standard output is kept back."""
    effects = Effects()
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    _watching.append(effects)
    stderr = sys.stderr
    sys.stderr = _Complaints(stderr, effects)
    try:
        with redirect_stdout(effects.printed):
            yield effects
    finally:
        sys.stderr = stderr
        _watching.remove(effects)


_hooked: list[bool] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note a file that is opened for writing; called by Python for every event, and cannot be removed."""
    if event != "open" or not _watching:
        return
    path, mode, flags = arguments
    writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & WRITES)
    if not writes or not isinstance(path, str | bytes | os.PathLike):
        return
    name = os.path.abspath(os.fsdecode(path))
    here = os.getcwd() + os.sep
    if name.startswith(here) and not name.endswith(".pyc") and not _is_ours():
        _watching[-1].written.append(name.removeprefix(here))


WRITES = os.O_WRONLY | os.O_RDWR


def _is_ours() -> bool:
    """Whether the core opens the file, by itself or through a library."""
    frame = sys._getframe(2)
    while _is_library(path := frame.f_code.co_filename) and not path.startswith(KIT):
        if frame.f_back is None:
            return True
        frame = frame.f_back
    return path.startswith(KIT)


def _is_library(path: str) -> bool:
    return path.startswith(KIT) or any(part in path for part in LIBRARIES)


class _Complaints(io.TextIOBase):
    """Standard error, which notes what code of plugins writes."""

    def __init__(self, stream: Any, effects: Effects) -> None:
        super().__init__()
        self._stream, self._effects = stream, effects

    def write(self, text: str) -> int:
        if text.strip() and not _is_library(sys._getframe(1).f_code.co_filename):
            self._effects.complained.append(text.strip())
        written: int = self._stream.write(text)
        return written

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        tty: bool = self._stream.isatty()
        return tty

    def fileno(self) -> int:
        number: int = self._stream.fileno()
        return number
