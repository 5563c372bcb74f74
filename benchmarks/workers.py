"""What ``--workers`` gains: iCIFAR with one worker and with two, in alternation, and R compared bit for bit.

    python benchmarks/workers.py --archive cifar100.npz            # ten tasks, three repeats
    python benchmarks/workers.py --archive cifar100.npz --quick    # its form: two tasks, without two threads

Variants: one process with one thread, one process with two threads, and two workers with one thread each. A
run is a process of its own, its time is wall-clock time from its start to its end. The machine has to be
quiet. Target: two workers take at most 1 / 1.6 of the faster of the other two.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

TARGET = 1.6
VARIANTS: Mapping[str, tuple[int, int]] = {
    "one process, 1 thread": (1, 1),
    "one process, 2 threads": (1, 2),
    "2 workers, 1 thread": (2, 1),
}
"""Workers, and threads of each, by name."""


def main() -> None:
    """Run the variants and print their times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, required=True, help="images of CIFAR-100, as of env icifar")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--steps", type=int, help="optimiser steps of a task; those of the env if not set")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="two tasks of 20 steps, once, without two threads"
    )
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.steps, options.repeats = 2, 20, 1
    variants = [name for name, (_, threads) in VARIANTS.items() if threads == 1 or not options.quick]
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    rows: dict[str, list[list[float | None]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats):
            for number, name in enumerate(variants):
                out = Path(folder) / f"{number}-{repeat}"
                began = time.perf_counter()
                _run(options, name, out)
                seconds[name].append(time.perf_counter() - began)
                rows[name] = _matrix(out)
                print(f"# {name}: {seconds[name][-1]:.1f} s", file=sys.stderr)
    print(_heading(options))
    print(f"{'variant':<24}{'median s':>9}{'min s':>8}{'max s':>8}")
    for name, values in seconds.items():
        print(f"{name:<24}{statistics.median(values):>9.1f}{min(values):>8.1f}{max(values):>8.1f}")
    *single, workers = (statistics.median(values) for values in seconds.values())
    print(
        f"2 workers are {min(single) / workers:.2f} x as fast as the faster single process (target: {TARGET})"
    )
    same = rows["one process, 1 thread"] == rows["2 workers, 1 thread"]
    print(f"R of 2 workers is {'the same bit for bit' if same else 'ANOTHER'} as with one thread")
    if not same:
        sys.exit(1)


def _run(options: argparse.Namespace, name: str, out: Path) -> None:
    workers, threads = VARIANTS[name]
    command = [
        sys.executable,
        "-c",
        "from sidetune_core.cli.main import main_run; raise SystemExit(main_run())",
    ]
    command += [
        "--env",
        "icifar",
        "--env.archive",
        str(options.archive),
        "--env.num-tasks",
        str(options.tasks),
    ]
    command += [
        "--base",
        "resnet44",
        "--side",
        "fcn4",
        "--merger",
        "mlp2",
        "--learner",
        "sidetune",
        "--quiet",
    ]
    command += ["--out", str(out), "--workers", str(workers)]
    command += ["--train.steps", str(options.steps)] if options.steps is not None else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def _matrix(out: Path) -> list[list[float | None]]:
    from sidetune_core.results.summary import read_results
    from sidetune_core.storage.run_folder import RunFolder

    return [list(row) for row in read_results(RunFolder(out)).rows]


def _heading(options: argparse.Namespace) -> str:
    import torch

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    job = f"iCIFAR, {options.tasks} tasks, {options.steps or 'all'} steps, {options.repeats} repeats"
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors"
    return f"{job}; {machine}, torch {torch.__version__}, {datetime.date.today()}, commit {commit}"


if __name__ == "__main__":
    main()
