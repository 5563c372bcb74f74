"""`sidetune clean`: make run folders smaller."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch
from sidetune_core.errors import RunError, SidetuneError
from sidetune_core.io.printable import counted, indented, one_line
from sidetune_core.storage.run_folder import open_run


def clean_runs(
    runs: Positional[tuple[Path, ...]], keep: Literal["last"] | None = None, dry_run: Switch = False
) -> int:
    """Make run folders smaller, and print the bytes that this frees. Everything that is trained stays.

    Converts checkpoints of the former layout, each of which has the whole learner, into the base and what
    each task adds. Deletes temporary files of killed processes, and the checkpoint within a task of a
    finished run. A run in which a process works is refused.

    Args:
        runs: run folders.
        keep: 'last' drops the tensors of earlier checkpoints that later tasks have changed, also from now on:
            only the newest checkpoint can be read then; by default, what the run was begun with.
        dry_run: print what would be freed, and change nothing.
    """
    if not runs:
        raise SidetuneError("no run given: sidetune clean runs/*")
    total = cleaned = 0
    for path in runs:
        try:
            total += _clean(path, keep, dry_run)
            cleaned += 1
        except RunError as error:
            if len(runs) == 1:
                raise
            print(f"skipped: {indented(error)}", file=sys.stderr)
    if len(runs) > 1:
        print(f"{_freed(total, dry_run)} in {counted(cleaned, 'run')}")
    return 0 if cleaned == len(runs) else 1


def _clean(path: Path, keep: Literal["last"] | None, dry_run: bool) -> int:
    from sidetune_core.storage.compaction import clean
    from sidetune_core.storage.lock import is_held, locked

    folder = open_run(path)
    if dry_run and is_held(folder.path):
        raise RunError(f"the run {path} is in use; wait for it or stop it, then try again")
    with nullcontext() if dry_run else locked(folder.path):
        result = clean(folder, keep, dry_run)
    for note in result.notes:
        print(one_line(f"{path}: {note}"), file=sys.stderr)
    print(one_line(f"{path}: {_freed(result.freed, dry_run)}"))
    return result.freed


def _freed(size: int, dry_run: bool) -> str:
    if size < 0:  # the JSON of a chain has a digest for each tensor
        return f"{byte_size(-size)} more {'would be used' if dry_run else 'used'}"
    return f"{byte_size(size)} {'would be freed' if dry_run else 'freed'}"


def byte_size(size: int) -> str:
    """Bytes for a reader: ``12.3 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
