"""Side-tuning on iCIFAR: our run compared with a plain PyTorch loop of the same job.

    python benchmarks/icifar_store.py --archive cifar100.npz [--tasks 10] [--repeats 3] [--quick]
        [--variants plain cold warm off] [--precisions fp32 bf16 auto] [--avalanche-python PYTHON]

The plain loop is the job written without this project (`icifar_plain`): the same networks, optimiser, batches
and evaluations (all tasks untrained, each task right before its training, and the tasks so far after each
task), with the frozen base re-computed on every batch; it has no precision 'auto'. ``avalanche`` is the same
job by the strategy Naive of Avalanche (`icifar_avalanche`), in the environment of the interpreter that
``--avalanche-python`` names: ``pip install avalanche-lib==0.6.0 -e .`` makes one. Of our runs, ``cold`` has
the feature cache in memory, ``warm`` is a second run with the cache that a first run, not timed, left on
disk, and ``off`` has none. Variants take turns, each in its own process, which is timed in full, imports
included.

Printed, as medians of the repeats with the smallest and the largest: seconds; the ratio to the faster plain
loop; processor time; of it, the seconds of imports, and the fraction outside of forward passes (with the
loss), backward passes and optimiser steps, with the imports; peak memory; mean accuracy.
Targets in precision 'auto', ten tasks, two cores: a ratio of at most 0.30 cold, 0.15 warm and 0.90 without
the cache, and 3 % outside.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import attrs

import sidetune_core
from sidetune_core.system.device import processor

VARIANTS = ("plain", "cold", "warm", "off")
BY_HAND = ("plain", "avalanche")
"""Variants without this project's training: they have no precision 'auto'."""
PRECISIONS = ("fp32", "bf16", "auto")
MODES = {"cold": "memory", "warm": "disk", "off": "off"}
STEPS = 157


def main() -> None:
    """Time every variant and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--archive", type=Path, required=True, help="CIFAR-100 as .npz (x_train, y_train, x_test, y_test)"
    )
    parser.add_argument("--tasks", type=int, default=10, help="number of tasks")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of a task")
    parser.add_argument("--quick", action="store_true", help="one task of two steps, once, in fp32")
    parser.add_argument("--weights", default="packaged", help="'packaged', or 'none' for random weights")
    parser.add_argument("--avalanche-python", help="an interpreter that has Avalanche: adds the variant")
    parser.add_argument("--child", choices=(*VARIANTS, "avalanche"), help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.steps, options.repeats, options.precisions = 1, 2, 1, ["fp32"]
    if not options.child:
        _compare(options)
        return
    if options.child in BY_HAND:
        accuracy, imports, inside = _by_hand(options), 0.0, [0.0]
    else:
        with computing() as inside:
            imports = time.process_time()
            accuracy = _ours(options)
    total = time.process_time()
    facts = {"accuracy": accuracy, "processor": total, "imports": imports, "outside": 1 - sum(inside) / total}
    print(json.dumps(facts))


@contextmanager
def computing() -> Iterator[list[float]]:
    """Measure the processor time of forward passes, backward passes and optimiser steps within a block.

    Yields:
        The times in seconds, in the order of their ends; a call within another is part of that.
    """
    import torch

    from sidetune_core.interfaces.learner import Learner
    from sidetune_core.training.optimizer import Adam

    times: list[float] = []
    depth = 0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal depth
            began, depth = time.process_time(), depth + 1
            try:
                return function(*arguments, **named)
            finally:
                depth -= 1
                if not depth:
                    times.append(time.process_time() - began)

        return call

    with ExitStack() as patches:
        for owner, name in (
            (Learner, "losses"),
            (Learner, "predict"),
            (torch.Tensor, "backward"),
            (Adam, "step"),
        ):
            patches.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name))))
        yield times


@attrs.frozen
class Measured:
    """A run of a variant."""

    seconds: float
    processor: float
    imports: float
    """Processor time until the run begins; later imports are not in it."""
    outside: float
    memory: float
    """In GB."""
    accuracy: float


def _compare(options: argparse.Namespace) -> None:
    variants = [
        (variant, precision)
        for variant in (*options.variants, *(["avalanche"] if options.avalanche_python else []))
        for precision in options.precisions
        if not (variant in BY_HAND and precision == "auto")
    ]
    runs: dict[tuple[str, str], list[Measured]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory() as folder:
        for variant, precision in variants:
            if variant == "warm":
                _child(options, variant, precision, f"{folder}/first-{precision}")
        for repeat in range(options.repeats):
            for variant, precision in variants:
                run = _child(options, variant, precision, f"{folder}/{variant}-{precision}-{repeat}")
                runs[variant, precision].append(run)
                print(f"# {variant} {precision}: {run.seconds:.1f} s", file=sys.stderr)
    medians = {
        variant: Measured(*map(statistics.median, zip(*map(attrs.astuple, made), strict=True)))
        for variant, made in runs.items()
    }
    plain = [median.seconds for (variant, _), median in medians.items() if variant == "plain"]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        f"iCIFAR, {options.tasks} tasks x {options.steps} steps, batch 128; {processor()}, "
        f"{len(os.sched_getaffinity(0))} cores, torch {metadata.version('torch')}, "
        f"commit {commit.stdout.strip()}, {time.strftime('%Y-%m-%d')}; medians of {options.repeats}"
    )
    print(f"{'variant':<10}{'precision':<10}{'seconds':>8}{'from':>7}{'to':>7}{'ratio':>7}", end="")
    print(f"{'processor s':>13}{'imports s':>11}{'outside %':>11}{'peak GB':>9}{'accuracy %':>12}")
    for (variant, precision), median in medians.items():
        seconds = [run.seconds for run in runs[variant, precision]]
        ratio = f"{median.seconds / min(plain):>7.3f}" if plain else f"{'':>7}"
        by_hand = variant in BY_HAND
        imports = "" if by_hand else f"{median.imports:.1f}"
        outside = "" if by_hand else f"{100 * median.outside:.1f}"
        print(
            f"{variant:<10}{precision:<10}{median.seconds:>8.1f}{min(seconds):>7.1f}{max(seconds):>7.1f}{ratio}"
            f"{median.processor:>13.1f}{imports:>11}{outside:>11}"
            f"{median.memory:>9.2f}{100 * median.accuracy:>12.2f}"
        )


def _child(options: argparse.Namespace, variant: str, precision: str, out: str) -> Measured:
    """Run a variant in a process of its own."""
    arguments = ["--child", variant, "--precision", precision, "--folder", out]
    arguments += ["--archive", options.archive, "--weights", options.weights]
    arguments += ["--tasks", str(options.tasks), "--steps", str(options.steps)]
    python = options.avalanche_python if variant == "avalanche" else sys.executable
    command = [python, __file__, *map(str, arguments)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    duration = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"the variant {variant} failed")
    found = json.loads(text.splitlines()[-1])
    memory = usage.ru_maxrss * 1024 / 1e9
    return Measured(
        duration, found["processor"], found["imports"], found["outside"], memory, found["accuracy"]
    )


def _by_hand(options: argparse.Namespace) -> float:
    """The plain loop, or Avalanche's."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this script's folder is on the path, not its parent
    from benchmarks import icifar_avalanche, icifar_plain

    job = icifar_plain.PlainJob(
        options.archive, options.tasks, options.steps, options.weights, options.precision
    )
    return icifar_plain.train(job) if options.child == "plain" else icifar_avalanche.train(job)


def _ours(options: argparse.Namespace) -> float:
    """A run of this project."""
    spec = sidetune_core.RunSpec(
        base={"name": "resnet44", "weights": options.weights},
        side={"name": "fcn4", "weights": options.weights},
        merger="mlp2",
        learner="sidetune",
        env={"name": "icifar", "archive": options.archive, "num_tasks": options.tasks},
        train={"steps": options.steps},
        cache={"mode": MODES[options.child], "dir": options.folder.parent / "store"},
        device={"precision": options.precision},
    )
    row = sidetune_core.run(spec, options.folder).results.rows[-1]
    return statistics.mean(cell for cell in row if cell is not None)


if __name__ == "__main__":
    main()
