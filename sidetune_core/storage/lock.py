"""A lock on a run folder, for one process at a time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sidetune_core.errors import RunError
from sidetune_core.io import strict_json
from sidetune_core.io.files import read_text
from sidetune_core.storage.atomic import writing


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder for a block. The operating system releases the lock when the process dies.

    Raises:
        RunError: another process has locked it.
        WriteError: the folder is not writable.
    """
    lock, holder = FileLock(folder / "lock"), folder / "lock.json"
    with writing(folder / "lock"):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise RunError(
                f"the run {folder} is in use by {_name(holder)}; wait for it or stop it, then try again"
            ) from error
    try:
        with writing(holder):
            holder.unlink(missing_ok=True)  # of a killed process; a link is not followed
            with holder.open("x", encoding="utf-8") as file:
                file.write(strict_json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        yield
    finally:
        with suppress(OSError):  # the disk may have become read-only
            holder.unlink()
        lock.release()


@contextmanager
def waiting_lock(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold a lock file for a block; `on_wait` is called once if another process holds it.

    Raises:
        WriteError: nothing can be written there.
    """
    lock = FileLock(path)
    with writing(path):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_wait()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process has locked a run folder; True as well where that cannot be determined."""
    if not os.path.lexists(folder / "lock"):
        return False  # to look is not to write
    try:
        with FileLock(folder / "lock", timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _name(holder: Path) -> str:
    try:
        values = json.loads(read_text(holder))
        return f"process {values['pid']} on {values['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has the lock and has not written its name yet
