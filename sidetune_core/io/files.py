"""Reading files that others wrote: nothing waits for a pipe, and no size is believed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

MAX_TEXT = 2**26
"""Bytes of a text file, such as a spec or ``run.json``, and of a line of a ``.jsonl`` file."""

MAX_ELEMENTS = 2**26
"""Elements of one input, as a file states its shape."""

STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Where a shell puts what another command writes."""


def check_regular(path: Path) -> None:
    """Check that a path is a file, or leads to one: reading a pipe could wait forever.

    Raises:
        OSError: there is none, or it is a folder, a pipe, a device or a socket.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path, which need not exist, is a folder or leads into it, also through links."""
    real = Path(os.path.realpath(path))
    return any(is_same(parent, folder) for parent in (real, *real.parents))


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder that exists."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def read_bytes(path: Path, limit: int = MAX_TEXT) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than `limit` bytes.
    """
    if not str(path).startswith(STREAMS):
        check_regular(path)
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"{path} has more than {limit:,} bytes")
    return content


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """The content of a text file in UTF-8, with the line breaks of any system.

    Raises:
        OSError, UnicodeDecodeError: see `read_bytes`.
    """
    return read_bytes(path, limit).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file in UTF-8, with their ends.

    Raises:
        OSError: see `read_bytes`.
        ValueError: a line is longer than `MAX_TEXT` bytes, or no UTF-8.
    """
    check_regular(path)
    with path.open("rb") as file:
        while line := file.readline(MAX_TEXT + 1):
            if len(line) > MAX_TEXT:
                raise ValueError(f"a line of {path} has more than {MAX_TEXT:,} bytes")
            yield line.decode("utf-8")


def check_shapes(shapes: Mapping[str, Sequence[int]]) -> None:
    """Check shapes of inputs that a file states, before anything of that size is allocated.

    Raises:
        ValueError: one is no shape, or has more than `MAX_ELEMENTS` elements.
    """
    for name, shape in shapes.items():
        if any(size < 1 for size in shape) or prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"input {name!r} cannot have the shape {tuple(shape)}")
