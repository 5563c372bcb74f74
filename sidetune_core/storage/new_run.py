"""A run folder where there was none."""

from __future__ import annotations

import datetime
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path

from sidetune_core.errors import RunError
from sidetune_core.io.printable import counted
from sidetune_core.storage.atomic import clear_unfinished, make_folder
from sidetune_core.storage.run_folder import RunFolder, resume_command
from sidetune_core.storage.run_search import is_run, runs_below

RUNS = Path("runs")


def check_free(path: Path | None) -> None:
    """Check that a run folder can be created, before any work is done. Writes nothing.

    Raises:
        RunError: the folder is not empty, or not writable.
    """
    path = path if path is not None else RUNS
    if path is not RUNS and path.is_dir() and not is_unbegun(path):
        raise RunError(_not_empty(path))
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise RunError(f"cannot create the run folder {path}: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"cannot create the run folder {path}: no permission to write in {existing}")


def _not_empty(path: Path) -> str:
    if is_run(path):
        return f"{path} is not empty: choose another --out, or resume the run in it: {resume_command(path)}"
    runs = runs_below(path)
    parent, name = (path, "run") if runs else (path.parent, path.name)
    free = next(folder for n in range(2, 10**6) if not (folder := parent / f"{name}-{n}").exists())
    holds = f" and holds {counted(len(runs), 'run')}" if runs else ""
    return f"{path} is not empty{holds}: choose another --out, such as --out {shlex.quote(str(free))}"


def is_unbegun(path: Path) -> bool:
    """Whether a folder has nothing but what a process leaves that was killed before it wrote ``run.json``."""
    return all(
        re.fullmatch(r"lock|lock\.json|\.run\.json\.[0-9a-f]{8}", child.name)
        or (child.name == "checkpoints" and child.is_dir() and not any(child.iterdir()))
        for child in path.iterdir()
    )


def _clear_unbegun(path: Path) -> None:
    from sidetune_core.storage.lock import is_held  # slow to import

    if not is_held(path):
        clear_unfinished(path)
        with suppress(OSError):  # absent, or another run's
            (path / "checkpoints").rmdir()


def create_run(path: Path | None, name: str) -> RunFolder:
    """A new, empty run folder.

    Args:
        path: the folder; None for ``runs/<name>-<time>``.
        name: the first part of a folder's name in ``runs/``.

    Raises:
        RunError: the folder is not empty, or not writable.
    """
    check_free(path)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    names = (
        [path]
        if path is not None
        else [RUNS / f"{name}-{stamp}{tail}" for tail in ("", *(f"-{n}" for n in range(2, 100)))]
    )
    for candidate in names:
        try:
            make_folder(candidate)
            _clear_unbegun(candidate)
            (candidate / "checkpoints").mkdir()  # fails if another run has just taken the name
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"cannot create the run folder {candidate}: {error.strerror or error}") from error
        return RunFolder(candidate)
    raise RunError(f"another run has just taken {names[-1]}; choose another --out")
