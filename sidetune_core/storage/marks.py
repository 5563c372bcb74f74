"""What a checkpoint notes of the files that a run appends lines to, and how they are cut back to it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidetune_core.storage.atomic import clear_unfinished, sync, sync_folder, truncate, writing
from sidetune_core.storage.run_files import LINES
from sidetune_core.storage.run_folder import RunFolder

Marks = Mapping[str, Sequence[Any]]
"""For each of `LINES`, its size in bytes and SHA-256 at a checkpoint."""


class RunningDigest:
    """The SHA-256 of a file that grows, of which only what is new is read."""

    def __init__(self) -> None:
        self._size, self._sha256 = 0, hashlib.sha256()
        self.is_new = True
        """Whether it was never read: then its name may not be synced to disk either."""

    def mark(self, path: Path) -> tuple[int, str]:
        """The file's size and digest; it is synced to disk."""
        with path.open("rb") as file:
            sync(file.fileno())
            if os.fstat(file.fileno()).st_size < self._size:  # it was cut
                self._size, self._sha256 = 0, hashlib.sha256()
            file.seek(self._size)
            content = file.read()
        self._size += len(content)
        self._sha256.update(content)
        self.is_new = False
        return self._size, self._sha256.hexdigest()


def take_marks(run: RunFolder, *further: str, read: Mapping[str, RunningDigest] | None = None) -> Marks:
    """Size and digest of each of `LINES`, and of further files, which are synced to disk.

    Args:
        further: names of files.
        read: what was read of `LINES` before, which is brought up to date; None to read them whole.
    """
    read = read if read is not None else {name: RunningDigest() for name in LINES}
    there = [name for name in LINES if (run.path / name).is_file()]
    new = any(read[name].is_new for name in there)
    marks = {name: read[name].mark(run.path / name) for name in there}
    marks |= {name: RunningDigest().mark(run.path / name) for name in further if (run.path / name).is_file()}
    if new:
        sync_folder(run.path)
    return marks


def rewind(run: RunFolder, marks: Marks) -> list[str]:
    """Truncate each of `LINES` to its size at a checkpoint, and delete the temporary files of a killed
    process.

    Returns:
        Names of the files that have changed or lost lines since then; their remaining lines stay.

    Raises:
        WriteError: the folder is not writable.
    """
    changed: list[str] = []
    for name in LINES:
        path, (size, digest) = run.path / name, marks.get(name, (0, ""))
        with writing(path):
            content = path.read_bytes() if path.is_file() else b""
            if size and hashlib.sha256(content[:size]).hexdigest() != digest:
                changed.append(name)
                size = content.rfind(b"\n", 0, size) + 1
            if len(content) > size:
                truncate(path, size)
    for folder in run.folders():
        clear_unfinished(folder)
    return changed
