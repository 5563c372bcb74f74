"""What a task costs after ten, a hundred and a thousand others.

    python benchmarks/growth.py [--tasks 1000] [--learners sidetune finetune] [--repeats 3] [--quick]

Tiny tasks (64 training examples of 16 numbers, 2 steps) on a base of two linear layers, so that what is
measured is the engine. For tasks 10, 100, … and the last, the median over the ten tasks around it of: seconds
of processor time, and bytes that the run folder gains (checkpoint, probes, documents, card, lines). Besides:
peak memory, with what the learner's own parameters take; the seconds that the last task takes longer, which
are those of the final certificate; the processor seconds of ``sidetune report``; and the wall-clock time.
Each point is printed as soon as it is measured, and the medians at the end. 1,000 tasks of sidetune take two
to four minutes of a quiet core.

Against: task 10 of the same run. Targets for sidetune: at most 1.2 times the time and the bytes of task 10
for task 1,000, memory that grows by the parameters only, and a report in 2 s. finetune changes what earlier
tasks read, so that all of them are evaluated after each task: its time is linear in the number of tasks.
``--quick`` takes 40 tasks and 1 repeat.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import attrs
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import sidetune_core
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.device import processor

WINDOW = 10


@attrs.frozen
class Growth:
    """The costs of a run."""

    points: Sequence[int]
    seconds: list[float]
    """Processor time of a task, by point."""
    sizes: list[float]
    """Bytes that a task adds to the run folder, by point."""
    memory: list[float]
    """Peak memory so far in MiB, by point."""
    parameters: float
    """MiB of all parameters at the end."""
    final: float
    """Seconds that the last task takes longer than those before it."""
    report: float
    """Processor seconds of ``sidetune report``."""
    wall: float
    """Wall-clock seconds of the run."""


class Points(Dataset[tuple[Tensor, int]]):
    """Random points with two classes."""

    def __init__(self, seed: int, count: int) -> None:
        self.inputs = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
        self.targets = [int(value > 0) for value in self.inputs[:, seed % 16]]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index], self.targets[index]


def main() -> None:
    """Run every learner in processes of their own, and print a table of medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--learners", nargs="+", default=["sidetune", "finetune"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="40 tasks and one repeat")
    parser.add_argument("--train", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.repeats = 40, 1
    if options.train:
        train(options.learners[0], options.tasks, Path(options.train))
        return
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True
    ).stdout
    print(
        f"{processor()}, {platform.system()}, {datetime.date.today()}, commit {commit.strip() or 'unknown'}"
    )
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.tasks} tasks, medians of "
        f"{options.repeats} (lowest to highest)"
    )
    for learner in options.learners:
        show(learner, [measure(learner, options.tasks) for _ in range(options.repeats)])


def train(learner: str, tasks: int, out: Path) -> None:
    """Train tiny tasks."""
    torch.manual_seed(0)
    adapters = learner == "sidetune"
    sidetune_core.run(
        base=nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)),
        learner=learner,
        tasks=[
            sidetune_core.Task.from_dataset(Points(k, 64), Points(k + 10**6, 32), id=f"t{k}")
            for k in range(tasks)
        ],
        train={"steps": 2, "batch_size": 32},
        device={"name": "cpu"},
        save_every="none",  # the only checkpoint of a task is that after it
        out=out,
        side="mlp" if adapters else None,
        merger="alpha" if adapters else None,
    )


def measure(learner: str, tasks: int) -> Growth:
    """Train in a process of its own, and read what it cost from the run folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        own = [sys.executable, __file__, "--learners", learner, "--tasks", str(tasks), "--train", str(path)]
        began = time.monotonic()
        with subprocess.Popen(own, stderr=subprocess.DEVNULL) as process:
            follow(process, RunFolder(path), learner, tasks, began)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, own)
        wall = time.monotonic() - began
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = ["-c", "from sidetune_core.cli.main import main; main()", "report", str(path)]
        subprocess.run([sys.executable, *report], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return read(RunFolder(path), tasks, took, wall)


def follow(
    process: subprocess.Popen[bytes], folder: RunFolder, learner: str, tasks: int, began: float
) -> None:
    """Print the cost of each point once the tasks around it are trained, until the process ends."""
    points = list(windows(tasks))
    is_over = False
    while points and not is_over:
        is_over = process.poll() is not None  # before the lines are read: nothing comes after them
        processors = [interval["processor"] for interval in folder.lines("seconds.jsonl")]
        while points and len(processors) >= points[0][1].stop:
            point, window = points.pop(0)
            print(
                f"{learner}, task {point}: {median(processors[window]):.3f} s of processor time, "
                f"{time.monotonic() - began:.0f} s after the start",
                flush=True,
            )
        time.sleep(0 if is_over else 1)


def windows(tasks: int) -> Iterator[tuple[int, slice]]:
    """The points of a run, each with the tasks around it; those of the last exclude the last task, which has
    the final certificate."""
    for point in [point for point in (10, 100, 300, 1000, 3000, 10000) if point < tasks] + [tasks]:
        end = min(point + WINDOW // 2, tasks - 1)
        yield point, slice(max(0, end - WINDOW), end)


def read(folder: RunFolder, tasks: int, report: float, wall: float) -> Growth:
    """The costs that a run folder has recorded."""
    intervals = folder.lines("seconds.jsonl")  # the last one is that of the run's end
    if len(intervals) != tasks + 1:
        raise ValueError(f"{len(intervals)} intervals of {tasks} tasks")
    sizes = new_bytes(folder, tasks)
    points, slices = zip(*windows(tasks), strict=True)
    processors = [interval["processor"] for interval in intervals[:-1]]
    return Growth(
        points,
        [median(processors[window]) for window in slices],
        [median(sizes[window]) for window in slices],
        [intervals[point - 1]["memory"] / 2**20 for point in points],
        folder.lines("parameters.jsonl")[-1]["all"] * 4 / 2**20,
        processors[-1] - median(processors[slices[-1]]),
        report,
        wall,
    )


def new_bytes(folder: RunFolder, tasks: int) -> list[int]:
    """The bytes that each task has added."""
    sizes = [0] * tasks
    for kind, pattern, first in (
        ("checkpoints", r"after-(\d+)\.", 1),
        *((kind, r"t(\d+)[.-]", 0) for kind in ("tasks", "probes", "documents")),
    ):
        for path in (folder.path / kind).rglob("*"):
            found = re.match(pattern, path.relative_to(folder.path / kind).as_posix())
            if found and path.is_file():
                sizes[int(found[1]) - first] += path.stat().st_size
    for line in (folder.path / "eval.jsonl").read_text(encoding="utf-8").splitlines(keepends=True):
        sizes[max(0, json.loads(line)["after"])] += len(line)
    for line in (folder.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True):
        sizes[int(json.loads(line)["task"][1:])] += len(line)
    for file in ("moved.jsonl", "parameters.jsonl", "certificate.jsonl"):
        path = folder.path / file
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        for index, line in enumerate(lines[:tasks]):
            sizes[index] += len(line)
    return sizes


def show(learner: str, runs: Sequence[Growth]) -> None:
    """A line for each point, with ratios to the first."""
    first, *_ = runs
    print(f"\n{learner}\n{'task':>6} {'processor s':>22} {'x':>6} {'new bytes':>12} {'x':>6} {'peak MiB':>9}")
    for index, point in enumerate(first.points):
        seconds = [run.seconds[index] for run in runs]
        ratio = median(run.seconds[index] / run.seconds[0] for run in runs)
        size, grown = first.sizes[index], first.sizes[index] / first.sizes[0]
        spread = f"{median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
        memory = median(run.memory[index] for run in runs)
        print(f"{point:>6} {spread:>22} {ratio:>6.2f} {size:>12,.0f} {grown:>6.2f} {memory:>9.0f}")
    for what, values in (
        ("parameters at the end, MiB", [run.parameters for run in runs]),
        ("final certificate, s", [run.final for run in runs]),
        ("sidetune report, s", [run.report for run in runs]),
        ("wall-clock time of the run, s", [run.wall for run in runs]),
    ):
        print(f"{what}: {median(values):.2f} ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
