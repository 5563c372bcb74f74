"""Atomic writes: a file is complete or absent."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidetune_core.errors import WriteError


def home() -> Path:
    """The root of all caches: ``$SIDETUNE_HOME``, by default ``~/.cache/sidetune``."""
    return Path(os.environ.get("SIDETUNE_HOME") or "~/.cache/sidetune").expanduser()


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary file next to `path`, sync, then rename, so that no crash leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for text, in UTF-8."""
    write_bytes(path, text.encode())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an error that names the file.

    Raises:
        WriteError: the disk is full, or the path is not writable.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def clear_unfinished(folder: Path) -> None:
    """Delete the temporary files of a `write_bytes` whose process was killed."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}", path.name):
            path.unlink(missing_ok=True)
