"""The time, memory and energy that a run takes, in ``seconds.jsonl``."""

from __future__ import annotations

import time
from collections.abc import Callable

from sidetune_core.storage.run_files import SECONDS
from sidetune_core.storage.run_folder import RunFolder


def _unknown() -> float | None:
    return None


class Clock:
    """Writes the time and memory of a run to ``seconds.jsonl``, an interval at a time; a killed process loses
    its last one.

    An interval has wall-clock seconds, processor seconds of this process and its workers, and the peak memory
    of this process so far in bytes; and the energy of the machine's processors in joules, if it is known.

    Args:
        folder: of the run.
        peak_memory: returns it.
        energy: returns joules since its last call (see `system.energy`); None where they are unknown.
    """

    def __init__(
        self, folder: RunFolder, peak_memory: Callable[[], int], energy: Callable[[], float | None] = _unknown
    ) -> None:
        self._folder, self._peak_memory, self._energy, self._joules = folder, peak_memory, energy, 0.0
        self._began = self._last = time.monotonic()
        self._worked = time.process_time()

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was started."""
        return time.monotonic() - self._began

    def add(self, seconds: float) -> None:
        """Add processor seconds of a worker process to the interval."""
        self._worked -= seconds

    def note(self) -> None:
        """Write the interval since the last note.

        Raises:
            WriteError: the file cannot be written; the next note has its interval too.
        """
        now, worked = time.monotonic(), time.process_time()
        record = {
            "seconds": round(now - self._last, 3),
            "processor": round(worked - self._worked, 3),
            "memory": self._peak_memory(),
        }
        joules = self._energy()
        if joules is not None:
            self._joules += joules
            record["energy"] = round(self._joules, 3)
        self._folder.append(SECONDS, record)
        self._last, self._worked, self._joules = now, worked, 0.0
