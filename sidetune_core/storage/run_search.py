"""Run folders below a folder, such as those of a sweep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

DEPTH = 3
"""Folders between a folder and the runs below it that are found."""


def runs_below(path: Path, depth: int = DEPTH) -> list[Path]:
    """The run folders in a folder and its subfolders, sorted; those within a run are not looked for.

    Args:
        path: the folder; one that is missing or may not be read has none.
        depth: largest number of folders from `path` to a run.
    """
    return sorted(_below(path, depth))


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    try:
        return (path / "run.json").is_file()
    except OSError:
        return False


def _below(path: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(path) as entries:
            folders = [
                path / entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            ]
    except OSError:
        return
    for folder in folders:
        if is_run(folder):
            yield folder
        elif depth > 1 and not folder.is_symlink():  # a link may lead back up
            yield from _below(folder, depth - 1)
