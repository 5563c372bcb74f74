"""The default run alone and alongside busy processes: a thread for every processor, or for what others leave.

    python benchmarks/contention.py [--busy 2] [--repeats 5] [--quick]

Measured is the wall-clock time of ``sidetune-run`` from start to end, in a process of its own, on the env
``digits``: with ``--device.threads`` set to the number of processors, which was the rule before threads were
chosen (``all``), and without it (``auto``); each of them alone, and alongside `busy` processes that compute.
The four take turns. Printed are median, range and numbers of threads of each, and two ratios of medians. The
targets, for a machine that does nothing else: ``auto`` alongside two busy processes takes at most 2 times as
long as ``all`` alone, and ``auto`` alone at most 1.03 times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sidetune_core.system.device import processor
from sidetune_core.system.processors import available

RULES = ("all", "auto")
COUNT = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(1000000))"
"""What a busy process does, until this one ends."""
RUN = "import sys; from sidetune_core.cli.main import main_run; sys.exit(main_run())"


def main() -> None:
    """Time the runs and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--busy", type=int, default=2, help="busy processes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one task of two steps, once")
    options = parser.parse_args()
    short = ["--env.num-tasks", "1", "--train.steps", "2"] if options.quick else []
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    print(
        f"{processor()}, {os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}, "
        f"commit {commit.stdout.strip()}, torch {torch.__version__}",
        flush=True,
    )
    seconds: dict[tuple[str, int], list[float]] = {(rule, n): [] for n in (0, options.busy) for rule in RULES}
    threads: dict[tuple[str, int], list[int]] = {key: [] for key in seconds}
    for _ in range(1 if options.quick else options.repeats):
        for (rule, others), values in seconds.items():
            with _busy(others):
                taken, numbers = _run(rule, short)
            values.append(taken)
            threads[rule, others] += numbers
            print(f"{rule} with {others} busy: {taken:.1f} s", flush=True)
    for (rule, others), values in seconds.items():
        alongside = f"alongside {others} busy processes" if others else "alone"
        print(
            f"{rule:<5}{alongside:<27}{statistics.median(values):7.1f} s  ({min(values):.1f} to "
            f"{max(values):.1f}), threads {sorted(set(threads[rule, others]))}"
        )
    whole = statistics.median(seconds["all", 0])
    for others, words, target in ((options.busy, "alongside the others", 2.0), (0, "alone", 1.03)):
        ratio = statistics.median(seconds["auto", others]) / whole
        print(f"auto {words} / all alone: {ratio:.2f} (target {target:.2f})")


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Processes that do nothing but count, during a block."""
    processes = [subprocess.Popen([sys.executable, "-c", COUNT]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _run(rule: str, options: list[str]) -> tuple[float, list[int]]:
    """Seconds of a run, and its numbers of threads."""
    fixed = ["--device.threads", str(available())] if rule == "all" else []
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [sys.executable, "-c", RUN, "--out", str(out), "--quiet", *fixed, *options]
        began = time.monotonic()
        subprocess.run(words, env=variables, check=True, stdout=subprocess.DEVNULL)
        taken = time.monotonic() - began
        about = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return taken, [about["threads"], *(segment["threads"] for segment in about.get("segments", ()))]


if __name__ == "__main__":
    main()
