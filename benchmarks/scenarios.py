"""All learners in all scenarios on digits: a table of average accuracies without and with task ids.

    python benchmarks/scenarios.py [--quick] [--scenarios NAME ...] [--learners NAME ...] [--out FOLDER]

Every learner that is defined in a scenario runs once, with seed 0 and its default options; of `sidetune`
there is a row for each rule of task inference. It is a smoke table: the steps are few, and nothing is tuned.
The last line has the time that all of it took; the table is meant to take less than ten minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

import sidetune_core
from sidetune_core.config.scenario_check import learners_in
from sidetune_core.errors import SidetuneError
from sidetune_core.results.cells import format_value
from sidetune_core.results.metrics import mean
from sidetune_core.results.summary import summarise
from sidetune_core.results.tables import markdown
from sidetune_core.scenarios import SCENARIOS, Scenario, title

RULES = ("max-softmax", "energy", "entropy", "nearest-mean")
EXCLUDED = ("distill", "peft")
"""Learners that train no classifier of the tasks, or need components of their own."""


@attrs.frozen
class Row:
    """A learner in a scenario."""

    name: str
    scenario: Scenario
    without: float | None = None
    """Average accuracy of the last row of R."""
    aware: float | None = None
    """The same with task ids."""
    seconds: float = 0.0
    reason: str = ""
    """Why it did not run."""


def choices(scenario: Scenario, learners: Sequence[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of rows with the learners and their options."""
    for name in learners_in(scenario):
        if name in EXCLUDED or (learners is not None and name not in learners):
            continue
        if name == "sidetune" and scenario != "task":
            for rule in RULES:
                yield f"sidetune, {rule}", {"name": name, "task_inference": rule}
        else:
            yield name, {"name": name}


def measure(
    name: str, learner: dict[str, Any], scenario: Scenario, args: argparse.Namespace, folder: Path
) -> Row:
    """Run a learner in a scenario."""
    began = time.monotonic()
    try:
        run = sidetune_core.run(
            base={"name": args.base},
            learner=learner,
            env={"name": "digits", "num_tasks": args.tasks},
            train={"steps": args.steps},
            device={"name": "cpu", "precision": "fp32"},
            scenario=scenario,
            out=folder / f"{scenario}-{name.replace(', ', '-')}",
            save_every="none",
        )
    except SidetuneError as error:
        return Row(name, scenario, reason=str(error))
    summary = summarise(run.folder)
    aware = summary.with_task_id or summary.results
    seconds = time.monotonic() - began
    return Row(name, scenario, mean(summary.results.rows[-1]), mean(aware.rows[-1]), seconds)


def table(rows: Sequence[Row], scenario: Scenario) -> str:
    """The rows of a scenario."""
    lines = [["learner", "average accuracy %", "with the task id %", "seconds"]]
    for row in rows:
        values = [format_value(value, True) for value in (row.without, row.aware)]
        lines.append([row.name, *values, f"{row.seconds:.1f}" if not row.reason else "not run"])
    return f"{title(scenario)}\n\n{markdown(lines)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a table for each scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two tasks, three steps")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--base", default="conv")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--learners", nargs="+", default=None)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args(argv)
    if args.quick:
        args.steps, args.tasks = 3, 2
    began, processor = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        for scenario in args.scenarios:
            rows = []
            for name, learner in choices(scenario, args.learners):
                rows.append(measure(name, learner, scenario, args, folder))
                print(f"{scenario} {rows[-1]}", file=sys.stderr, flush=True)
            print(f"{table(rows, scenario)}\n", flush=True)
            for row in rows:
                if row.reason:
                    print(f"{row.name}: {row.reason}\n", flush=True)
    clock, used = time.monotonic() - began, time.process_time() - processor
    print(
        f"Total: {clock:.0f} seconds by the clock, {used:.0f} of a processor; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
