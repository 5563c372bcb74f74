"""Links in a run folder: a run writes, cuts and deletes nothing but files of its own."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from sidetune_core.errors import RunError
from sidetune_core.storage.atomic import write_bytes, writing
from sidetune_core.storage.run_files import APPENDED, BY_PRODUCTS, FILES, FOLDERS
from sidetune_core.storage.run_folder import RunFolder

_NAMES = {stat.S_ISREG: "regular file", stat.S_ISDIR: "folder"}


def check_own(run: RunFolder) -> None:
    """Check that what a run writes, cuts and deletes here are files and folders of its own. Writes
    nothing.

    Raises:
        RunError: one is a symbolic link, or no regular file or folder; of by-products, either will do.
    """
    for path, expected in _own(run):
        mode = path.lstat().st_mode
        is_own = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        if not expected(mode) and not (is_own and path.name in BY_PRODUCTS):
            what = "a symbolic link" if stat.S_ISLNK(mode) else f"no {_NAMES[expected]}"
            raise RunError(
                f"{path} is {what}: a run follows none, since what it writes and deletes would be "
                f"elsewhere. Resume a copy: cp -rL {shlex.quote(str(run.path))} COPY"
            )


def separate_hard_links(run: RunFolder) -> None:
    """Copy each file that is changed in place and has another name elsewhere, such as in a backup.

    Raises:
        WriteError: the folder is not writable.
    """
    for name in APPENDED:
        path = run.path / name
        with writing(path):
            if path.is_file() and path.stat().st_nlink > 1:
                write_bytes(path, path.read_bytes())


def _own(run: RunFolder) -> Iterator[tuple[Path, Callable[[int], bool]]]:
    """What exists of `FILES` and `FOLDERS`, and what is in these, each with the check of its mode."""
    for names, expected in ((FILES, stat.S_ISREG), (FOLDERS, stat.S_ISDIR)):
        for path in (run.path / name for name in names):
            if os.path.lexists(path):
                yield path, expected
    for name in FOLDERS:
        for folder, folders, files in os.walk(run.path / name):
            yield from ((Path(folder, one), stat.S_ISDIR) for one in folders)
            yield from ((Path(folder, one), stat.S_ISREG) for one in files)
