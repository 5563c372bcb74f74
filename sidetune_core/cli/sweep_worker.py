"""Entry point of a sweep's workers: ``sidetune-run``, which exits when its parent process dies."""

from __future__ import annotations

import os
import signal
import threading
import time

from sidetune_core.cli.main import main_run

POLL_SECONDS = 0.5


def main(parent: int) -> int:
    """Run the arguments of the command line; returns the exit status.

    If the process `parent` dies, the run is killed: its lock would prevent others from resuming it. The work
    since its last checkpoint (``--save-every``) is then repeated.
    """
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    return main_run()


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
