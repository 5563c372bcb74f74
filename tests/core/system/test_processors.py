"""How many processors there are, and how many other processes leave."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from sidetune_core.system import processors
from sidetune_core.system.processors import Reading, available, left, quota, take_reading

V2, V1 = "0::/job/step\n", "7:memory:/job\n4:cpu,cpuacct:/job\n0::/\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/job/step/cpu.max": "max 100000\n"}, math.inf),
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/job/step/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/job/cpu.max": "250000 100000\n",
            },
            2.5,
        ),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),  # in a container
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ({"proc/self/cgroup": "damaged", "sys/fs/cgroup/cpu.max": "1 2 3"}, math.inf),
    ],
)
def test_the_tightest_quota_of_the_control_groups_counts(
    files: dict[str, str], expected: float, tmp_path: Path
) -> None:
    assert quota(write(tmp_path, files)) == expected


def test_a_process_may_use_its_share_of_quota_and_affinity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processors, "_allowed", lambda: set(range(16)))
    for variable in (processors.PROCESSES, processors.LOCAL_PROCESSES):
        monkeypatch.delenv(variable, raising=False)
    assert available(tmp_path) == 16
    write(tmp_path, {"proc/self/cgroup": V2, "sys/fs/cgroup/job/cpu.max": "950000 100000"})
    assert available(tmp_path) == 9
    monkeypatch.setenv(processors.LOCAL_PROCESSES, "4")
    assert available(tmp_path) == 2
    monkeypatch.setenv(processors.PROCESSES, "5")
    assert available(tmp_path) == 1


def test_only_the_processors_of_the_affinity_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    second = os.sysconf("SC_CLK_TCK")
    lines = [f"cpu{n} {n * second} 0 0 {10 * second} {second} 0 0 0 0 0" for n in range(4)]
    write(tmp_path, {"proc/stat": "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 1 2 3", ""])})
    monkeypatch.setattr(processors, "_allowed", lambda: {1, 3})
    reading = take_reading(tmp_path)
    assert reading is not None
    assert (reading.processors, reading.idle, reading.total) == (2, 22, 26)


def test_a_system_without_an_account_of_its_processors_says_nothing(tmp_path: Path) -> None:
    assert take_reading(tmp_path) is None
    still = Reading(at=0, processors=2, idle=0, total=0, own=0)
    assert left(still, Reading(at=1, processors=2, idle=0, total=0, own=1), 2) is None


@pytest.mark.parametrize(
    ("count", "idle", "own", "threads", "expected"),
    [
        (2, 0.0, 2.0, 2, 2),  # alone
        (2, 1.0, 1.0, 1, 2),  # alone, one processor is not used
        (2, 1.1, 0.9, 2, 2),  # alone, in a part that has one thread
        (2, 0.0, 1.0, 2, 0),  # alongside two busy processes: each has a fourth of the time
        (2, 0.0, 4 / 3, 2, 1),  # alongside one: each has a third
        (2, 0.0, 1.0, 1, 1),  # alongside one
        (2, 0.0, 2 / 3, 1, 0),  # alongside two: each has a third
        (64, 0.0, 32.0, 64, 0),  # alongside 64
        (64, 20.0, 34.0, 64, 54),  # alongside ten, and not all of the own threads always work
    ],
)
def test_what_others_leave_is_what_fair_shares_imply(
    count: int, idle: float, own: float, threads: int, expected: float
) -> None:
    before = Reading(at=10, processors=count, idle=5, total=10, own=1)
    after = Reading(at=12, processors=count, idle=5 + 2 * idle, total=10 + 2 * count, own=1 + 2 * own)
    assert left(before, after, threads) == pytest.approx(expected)
