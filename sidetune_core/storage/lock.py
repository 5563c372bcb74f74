"""One process at a time in a run folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sidetune_core.errors import RunError
from sidetune_core.storage.atomic import writing


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for a block. The operating system lets go of it when the process dies, however it dies.

    Raises:
        RunError: another process holds it, or nothing can be written there.
    """
    lock, holder = FileLock(folder / "lock"), folder / "lock.json"
    with writing(folder / "lock"):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise RunError(
                f"the run {folder} is being worked on by {_name(holder)}; let it end, or stop it, and try again"
            ) from error
    try:
        with writing(holder):
            holder.write_text(
                json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n", encoding="utf-8"
            )
        yield
    finally:
        with suppress(OSError):  # the disk may have become read-only, and the lock is what counts
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
    """Whether a process is at work in a run folder, or nobody can tell."""
    try:
        with FileLock(folder / "lock", timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _name(holder: Path) -> str:
    try:
        values = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {values['pid']} on {values['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # one that has the lock, and has not said yet who it is
