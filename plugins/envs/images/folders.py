"""Reading a tree of folders: which images there are, and what else was found."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, MutableMapping

import attrs

from sidetune_core.api import DataError

from .._image_files import SUFFIXES
from .account import LeftOut

HIDDEN = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
"""Folders that operating systems add, next to names that begin with a dot."""


@attrs.define(eq=False)
class Folder:
    """A folder with the images below it; names only, in their order."""

    name: str
    images: list[str] = attrs.field(factory=list)
    folders: list[Folder] = attrs.field(factory=list)

    def count(self) -> int:
        """Number of images, those of nested folders included."""
        return len(self.images) + sum(folder.count() for folder in self.folders)

    def files(self, path: str) -> list[str]:
        """Paths of these images, sorted, for the path of the folder."""
        return sorted(self._files(path))

    def _files(self, path: str) -> Iterator[str]:
        yield from (os.path.join(path, name) for name in self.images)
        for folder in self.folders:
            yield from folder._files(os.path.join(path, folder.name))


@attrs.frozen
class _Open:
    """A folder on its way to be read."""

    folder: Folder
    path: str
    above: tuple[tuple[int, int], ...]
    """Device and inode of itself and of the folders that contain it."""


def read_folder(root: str, left_out: LeftOut, bad: MutableMapping[str, str]) -> Folder:
    """Read a tree of folders.

    Symbolic links are followed, except to a folder that contains them.

    Args:
        root: path of the folder.
        left_out: counts what is no image.
        bad: receives the folders that cannot be read, with the reason.

    Raises:
        DataError: there is no such folder, or it cannot be read.
    """
    if not os.path.isdir(root):
        if os.path.isfile(root):
            hint = ""
            if root.lower().endswith((".npz", ".csv", ".tsv", ".txt", ".parquet")):
                option = "archive" if root.lower().endswith(".npz") else "table"
                hint = f"; pass --env.{option} {shlex.quote(root)}"
            raise DataError(f"no folder {root} (--env.root): it is a file{hint}")
        raise DataError(f"no folder {root} (--env.root): it does not exist")
    top = Folder(os.path.basename(os.path.abspath(root)))
    waiting = [_Open(top, root, (_identity(root),))]
    while waiting:
        entry = waiting.pop()
        try:
            _read_entries(entry, waiting, left_out)
        except OSError as error:
            if entry.folder is top:
                raise DataError(f"cannot list {root}: {error.strerror} (--env.root)") from error
            bad[entry.path] = f"cannot be listed: {error.strerror}"
    return top


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _read_entries(opened: _Open, waiting: list[_Open], left_out: LeftOut) -> None:
    """Add the images of one folder, and the folders in it to `waiting`."""
    with os.scandir(opened.path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.name.startswith(".") or entry.name in HIDDEN:
            left_out.hidden += 1
        elif entry.is_dir():
            identity = _identity(entry.path)
            if identity in opened.above:
                left_out.loops += 1
                continue
            folder = Folder(entry.name)
            opened.folder.folders.append(folder)
            waiting.append(_Open(folder, entry.path, (*opened.above, identity)))
        elif (suffix := os.path.splitext(entry.name)[1].lower()) not in SUFFIXES:
            left_out.suffixes[suffix] += 1
        elif entry.is_file():
            opened.folder.images.append(entry.name)
        elif entry.is_symlink():
            left_out.dangling += 1
        else:
            left_out.special += 1
