"""Atomic writes: a file is complete or absent, and a line of a file too, also after a power cut.

No function here follows a symbolic link in the last part of a path.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from io import FileIO
from pathlib import Path

from sidetune_core.errors import WriteError


def write_bytes(path: Path, data: bytes, unsynced: set[Path] | None = None) -> None:
    """Write to a temporary file next to `path`, sync, then rename, so that no crash leaves half a file.

    Args:
        path: of the file.
        data: its content.
        unsynced: gets the folders to sync (see `sync_folders`), which a caller that writes several files does
            once, after all of them; None to sync them here.
    """
    folders = unsynced if unsynced is not None else set[Path]()
    make_folder(path.parent, folders)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folders.add(path.parent)
    if unsynced is None:
        sync_folders(folders)


def write_text(path: Path, text: str, unsynced: set[Path] | None = None) -> None:
    """`write_bytes` for text, in UTF-8."""
    write_bytes(path, text.encode(), unsynced)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, whole or not at all; what a killed process left of one is cut off first."""
    data = line.encode() + b"\n"
    with open(path, "a+b", buffering=0, opener=no_follow) as file:
        size = _whole_lines(file)
        try:
            while data:
                data = data[file.write(data) or 0 :]
        except BaseException:
            file.truncate(size)
            raise


def truncate(path: Path, size: int) -> None:
    """Cut a file to `size` bytes."""
    with open(path, "r+b", opener=no_follow) as file:
        file.truncate(size)


def no_follow(path: str, flags: int) -> int:
    """An opener for `open` that fails if the file is a symbolic link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)  # Windows lacks the flag


def make_folder(path: Path, unsynced: set[Path] | None = None) -> None:
    """Make a folder and those above it; each new one is synced to disk, see `write_bytes`."""
    if path.is_dir():
        return
    make_folder(path.parent, unsynced)
    path.mkdir(exist_ok=True)
    if unsynced is None:
        sync_folder(path.parent)
    else:
        unsynced.add(path.parent)


def sync_folders(paths: set[Path]) -> None:
    """`sync_folder` for each, those above it first; empties the set."""
    for path in sorted(paths):
        sync_folder(path)
    paths.clear()


_syncs: ContextVar[bool] = ContextVar("syncs", default=True)


@contextmanager
def not_synced() -> Iterator[None]:
    """Within it, nothing is synced to disk: for folders that are deleted before the process ends."""
    token = _syncs.set(False)
    try:
        yield
    finally:
        _syncs.reset(token)


def sync(handle: int) -> None:
    """`os.fsync`, unless `not_synced`."""
    if _syncs.get():
        os.fsync(handle)


def sync_folder(path: Path) -> None:
    """Sync the names of the files in a folder: without it, a power cut can undo a rename.

    Does nothing on systems and file systems that cannot do this.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows, or a folder that may be written but not read
        return
    try:
        sync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an error that names the file.

    Raises:
        WriteError: the disk is full, or the path is not writable.
    """
    try:
        yield
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or error
        raise WriteError(f"cannot write {path}: {reason}") from error


def clear_unfinished(folder: Path, older_than: float = 0.0) -> None:
    """Delete the temporary files of a `write_bytes` whose process was killed.

    Args:
        folder: where they are.
        older_than: age in seconds, where other processes may be writing.
    """
    for path in unfinished(folder):
        with suppress(FileNotFoundError):  # another process was faster
            if not older_than or time.time() - path.lstat().st_mtime > older_than:
                path.unlink()


def unfinished(folder: Path) -> list[Path]:
    """The temporary files of a `write_bytes` that has not finished."""
    return [path for path in folder.glob(".*") if re.fullmatch(r"\..+\.[0-9a-f]{8}", path.name)]


def _whole_lines(file: FileIO) -> int:
    """The size of a file, after what follows its last newline is cut off."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            size = file.read().rfind(b"\n") + 1
            file.truncate(size)
    return size
