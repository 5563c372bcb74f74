"""The processors that this process may use, and how much of them other processes leave to it.

Read from Linux's ``/proc`` and ``/sys/fs/cgroup``; elsewhere only the number of processors is known.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs

PROCESSES = "SIDETUNE_PROCESSES"
"""Environment variable: how many runs side by side share this computer. A sweep sets it for its runs."""

LOCAL_PROCESSES = "LOCAL_WORLD_SIZE"
"""The same for the processes of one run, as `torchrun` sets it."""


def available(root: Path = Path("/")) -> int:
    """Number of processors that this process may use: those of its affinity, as far as its cgroup's quota
    goes, divided by the processes that share them; at least 1."""
    processors = len(_allowed())
    with suppress(OverflowError):  # no quota
        processors = min(processors, math.floor(quota(root)))
    return max(1, processors // (_count(PROCESSES) * _count(LOCAL_PROCESSES)))


def quota(root: Path = Path("/")) -> float:
    """Processors' time that the cgroup of this process may use per second, by the tightest limit of it and
    those above it; infinite without a limit.

    Args:
        root: of the file system.
    """
    limits = [math.inf]
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # cgroup v2
                limits += _limits(root / "sys/fs/cgroup", path, _limit_v2)
            elif "cpu" in controllers.split(","):
                limits += _limits(root / "sys/fs/cgroup" / controllers, path, _limit_v1)
    return min(limits)


@attrs.frozen
class Reading:
    """What the processors that this process may use have done until a moment, in seconds."""

    at: float
    """The moment."""
    processors: int
    idle: float
    """Time without work, summed over the processors."""
    total: float
    """Time of any kind, likewise."""
    own: float
    """Time that the threads of this process have used."""


def take_reading(root: Path = Path("/")) -> Reading | None:
    """The reading of this moment; None where the system does not tell."""
    wanted = {f"cpu{number}" for number in _allowed()}
    idle = total = found = 0
    with suppress(OSError, ValueError):
        for line in (root / "proc/stat").read_text(encoding="ascii").splitlines():
            name, *fields = line.split()
            if name in wanted:
                ticks = [int(field) for field in fields[:8]]  # the rest is counted in them already
                idle, total, found = idle + ticks[3] + ticks[4], total + sum(ticks), found + 1
    if not found:
        return None
    second = os.sysconf("SC_CLK_TCK")
    return Reading(time.monotonic(), found, idle / second, total / second, time.process_time())


def left(before: Reading, after: Reading, threads: int) -> float | None:
    """How many processors this process could have used between two readings, while it computed with some
    threads; None where the system does not tell.

    These are all but those that other processes want. Where no processor was idle, others have got less than
    they want: as much less as the threads of this process have, since the kernel shares evenly.
    """
    seconds = after.at - before.at
    if seconds <= 0 or after.total - before.total < 0.5 * seconds * after.processors:
        return None  # some sandboxes show a /proc/stat that does not move
    idle = (after.idle - before.idle) / seconds
    own = (after.own - before.own) / seconds
    others = max(0.0, after.processors - idle - own)
    if idle < 0.05 * after.processors and 0 < own < threads:
        others *= threads / own
    return max(0.0, after.processors - others)


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _count(variable: str) -> int:
    value = os.environ.get(variable, "")
    return max(1, int(value)) if value.isdecimal() else 1


def _limits(mount: Path, path: str, read: Callable[[Path], float]) -> Iterator[float]:
    """The limits of a cgroup and of those above it. In a container its path may be that of the host."""
    own = mount / path.lstrip("/")
    for folder in (own, *own.parents):
        with suppress(OSError, ValueError, ZeroDivisionError):
            yield read(folder)
        if folder == mount:
            return


def _limit_v2(folder: Path) -> float:
    most, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    return math.inf if most == "max" else int(most) / int(period)


def _limit_v1(folder: Path) -> float:
    most, period = (
        int((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
    )
    return math.inf if most < 0 else most / period
