"""``sidetune-run`` as a sweep begins it: a process that ends with the one that began it."""

from __future__ import annotations

import os
import signal
import threading
import time

from sidetune_core.cli.main import main_run

SECONDS_BETWEEN_LOOKS = 0.5


def main() -> int:
    """Run what the command line says; returns the exit status.

    Where the parent is gone the run is killed: nobody would know of it, and its lock would keep others from going on with it. What
    it did since it last wrote down where it is (``--save-every``) is then done again.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return main_run()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)
