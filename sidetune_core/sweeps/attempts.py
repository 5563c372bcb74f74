"""A run in a process of its own: executed, and resumed when the process was killed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import attrs

from sidetune_core.errors import RunError
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.status import has_diverged
from sidetune_core.sweeps.executors import Executor
from sidetune_core.system.signals import SIGNALS

RETRIES = 2

_INTERRUPTED = {
    128 + number for number in SIGNALS
}  # exit statuses of a run that saved a checkpoint after a signal


@attrs.frozen
class Ended:
    """How the attempts to execute a run ended."""

    status: Literal["done", "stopped", "failed"]
    """'done' if the run has come to its end, which may be that it diverged."""
    reason: str = ""
    """Why it failed."""


@attrs.frozen
class Attempts:
    """Executes runs, and resumes killed ones."""

    executor: Executor
    retries: int
    """How often to resume a run whose process was killed."""
    info: Callable[[str], None]
    """Prints a line of progress."""
    stopping: Callable[[], bool]
    """Whether all runs are to stop."""

    def execute(
        self,
        name: str,
        folder: RunFolder,
        output: Path,
        argv: Callable[[], Sequence[str]],
        should_stop: Callable[[], bool] | None = None,
        describe: str = "",
    ) -> Ended:
        """Execute a run to its end; called in a thread.

        Args:
            name: of the run, for progress.
            folder: of the run.
            output: file to which its output is appended.
            argv: the arguments of ``sidetune-run`` that begin or resume it now.
            should_stop: whether this run is to stop; None if it runs to its end.
            describe: what to say of the run when it starts.
        """
        how = ""
        for attempt in range(self.retries + 1):
            if self.stopping() or (should_stop is not None and should_stop()):
                return Ended("stopped")
            try:
                words = argv()
                verb = "resume" if words[0] == "--resume" else "start"
                self.info(f"{verb:<8} {name}{describe}")
                if should_stop is None:
                    status = self.executor.execute(words, output)
                else:
                    status = self.executor.execute(words, output, should_stop)
            except (OSError, RunError) as error:
                return Ended("failed", f"{error}")
            if status == 0 or has_diverged(folder.status):
                return Ended("done")
            if self.stopping() or (should_stop is not None and should_stop()):
                return Ended("stopped")
            if status > 0 and status not in _INTERRUPTED:
                return Ended("failed", last_line(output))
            how = f"killed by {signal.Signals(-status if status < 0 else status - 128).name}"
            if attempt < self.retries:
                self.info(f"{'killed':<8} {name}: {how}; retry {attempt + 1} of {self.retries}")
        return Ended("failed", f"{how}, {self.retries + 1} times; see {output}")


def last_line(path: Path) -> str:
    """The last line of a run's output."""
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"see {path}"
