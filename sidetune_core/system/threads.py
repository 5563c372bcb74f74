"""The number of threads of PyTorch's operations on the CPU: chosen for what other processes leave, and
adapted while a run is under way.

The threads of an operation wait for each other at its end. Where one of them has to share its processor, all
wait, and they use up processor time while they do (`benchmarks/contention.py`). So there are as many threads
as processors that nobody else wants, by the kernel's own account of how idle they are. That is measured
without a trial: timing some steps with another number of threads would change their last bits, and alongside
other processes the times of a few steps say little. Where the system does not tell, all processors are used.

The number decides on rounding. So it is recorded for each segment of a run, changes between two steps only,
and rarely: it falls after 2 s alongside other processes, and rises after 4 s of quiet, then 8, 16, …: in T
seconds it rises at most log2(T / 4) times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch

from sidetune_core.io.printable import counted
from sidetune_core.system.processors import Reading, available, left, take_reading

VARIABLE = "OMP_NUM_THREADS"

SAMPLE = 0.15
"""Seconds of a sample of what other processes use, at the start of a run."""

LOOK_EVERY = 1.0
"""Seconds between two looks at it while a run is under way."""

LOOKS_TO_FALL, LOOKS_TO_RISE = 2, 4
"""Looks in a row that find too many threads, or too few, before the number changes. Each rise doubles those
before the next."""


class Threads:
    """The number of threads of a run.

    Args:
        number: of threads now.
        most: that other processes may leave.
        adapts: whether it changes while the run is under way.
        changes: that it makes at some steps, by id of the task and step.
        read: what the processors have done so far; None where the system does not tell.
    """

    def __init__(
        self,
        number: int,
        most: int = 0,
        adapts: bool = False,
        changes: Mapping[tuple[str, int], int] = MappingProxyType({}),
        read: Callable[[], Reading | None] = lambda: None,
    ) -> None:
        self.number, self.most, self.adapts = number, max(most, number), adapts
        self._changes = changes
        self._read, self._before, self._next_look = read, None if not adapts else read(), 0.0
        self._too_many = self._too_few = 0
        self._patience = LOOKS_TO_RISE

    def look(self, task: str, step: int) -> bool:
        """Adapt the number before a step of a task, if it is time to look; returns whether it has changed.

        A large number does not fall by ones, but by a fourth at least.
        """
        if self._changes.get((task, step), self.number) != self.number:
            self._set(self._changes[task, step])
            return True
        if not self.adapts or time.monotonic() < self._next_look:
            return False
        before, self._before = self._before, self._read()
        self._next_look = time.monotonic() + LOOK_EVERY
        free = left(before, self._before, self.number) if before and self._before else None
        if free is None:
            return False
        fewer, more = int(free + 0.4), min(self.most, int(free + 0.2))
        self._too_many = self._too_many + 1 if max(1, fewer) < self.number else 0
        self._too_few = self._too_few + 1 if more > self.number else 0
        if self._too_many >= LOOKS_TO_FALL:
            self._set(max(1, min(fewer, self.number * 3 // 4)))
        elif self._too_few >= self._patience:
            self._patience *= 2
            self._set(more)
        else:
            return False
        return True

    def _set(self, number: int) -> None:
        self.number, self._too_many, self._too_few = number, 0, 0
        torch.set_num_threads(number)

    def __str__(self) -> str:
        reduced = self.adapts and self.number < self.most
        others = f" of {self.most}, alongside other processes" if reduced else ""
        return f"{counted(self.number, 'thread')}{others}"


@contextmanager
def use_threads(
    wanted: int | None = None,
    kept: int = 0,
    processes: int = 1,
    changes: Mapping[tuple[str, int], int] | None = None,
) -> Iterator[Threads]:
    """Compute with a number of threads in a block; afterwards, the process has its own number again.

    Args:
        wanted: the number that the user chose (``--device.threads``); None to choose one. Then it is that of
            ``OMP_NUM_THREADS``, if set.
        kept: the number of the run so far, used if there are as many processors; 0 if unknown.
        processes: of the run. Several adapt nothing, since they would have to do so together.
        changes: of the run that is repeated, which began with `kept`: nothing else is adapted; None for a run
            that repeats none.
    """
    before = torch.get_num_threads()
    threads = _choose(wanted, kept, processes, changes)
    if threads.number != before:
        torch.set_num_threads(threads.number)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


def _choose(
    wanted: int | None, kept: int, processes: int, changes: Mapping[tuple[str, int], int] | None
) -> Threads:
    if wanted is not None:
        return Threads(wanted)
    own = torch.get_num_threads()
    if VARIABLE in os.environ:
        return Threads(own)
    most = available()
    if changes is not None and 0 < max(kept, *changes.values(), 0) <= most:
        return Threads(kept, changes=changes)
    adapts = processes == 1
    if 0 < kept <= most:
        return Threads(kept, min(own, most), adapts, read=take_reading)
    most = min(own, most)
    return Threads(min(most, _left_now(most)), most, adapts, read=take_reading)


def _left_now(most: int) -> int:
    """How many processors other processes leave at this moment, at least 1. A process that is about to end
    spoils a sample: one of two is enough."""
    found = 1
    for _ in range(2):
        before = take_reading()
        if most == 1 or before is None:
            return most
        time.sleep(SAMPLE)
        after = take_reading()
        free = left(before, after, 1) if after is not None else None
        found = max(found, most if free is None else int(free + 0.4))
        if found >= most:
            return most
    return found
