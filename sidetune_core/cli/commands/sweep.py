"""`sidetune sweep`: a grid of runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import attrs
from tyro.conf import Positional

from sidetune_core.cli.commands.report import report
from sidetune_core.cli.commands.shared import Switch, print_json
from sidetune_core.errors import Interrupted
from sidetune_core.io import strict_json
from sidetune_core.io.printable import counted, one_line
from sidetune_core.results.tables import aligned
from sidetune_core.sweeps import grid
from sidetune_core.sweeps import runner as sweeping
from sidetune_core.sweeps.attempts import RETRIES
from sidetune_core.sweeps.runner import ExecutorName, print_aside


def sweep(
    argv: Positional[tuple[str, ...]] = (),
    out: Path = Path("sweep"),
    workers: int | None = None,
    executor: ExecutorName = "local",
    retries: int = RETRIES,
    save_every: str | None = None,
    dry_run: Switch = False,
    json: Switch = False,
    trust_local_code: Switch = False,
) -> int:
    """Run every combination of components, options and seeds: the options of sidetune-run, with lists as
    values.

    sidetune sweep --learner sidetune,ewc,finetune --merger alpha,mlp --seed 0..4 --train.lr 1e-3,5e-3 --out
    sweeps/first

    Enclose a value that has a comma in double quotes: '"a,b",c'. Instead of options, name a .toml file: a
    spec with a table [grid] of lists. A component or an option that a run does not use is left out of it, and
    points that resolve to the same run are run once. The same command skips finished runs and resumes
    interrupted or killed ones.

    Args:
        argv: a grid file, or the options of sidetune-run.
        out: folder of the sweep; runs are written to OUT/runs/NAME.
        workers: number of concurrent runs; default: one per GPU, or one per four cores without a GPU.
        executor: processes of this machine, or the Ray cluster of $RAY_ADDRESS (a local one if that is not
            set).
        retries: how often to resume a run whose process was killed.
        save_every: interval between checkpoints within a task: steps (200), seconds (30s), or none.
        dry_run: print the runs and their state, and exit.
        json: with --dry-run, print the plan as JSON.
        trust_local_code: import code that the grid's file, the spec or the data names (module:Class).
    """
    if dry_run:
        _show(grid.plan(grid.read(argv, trust_local_code)), out, json)
        return 0
    trusting = ["--trust-local-code"] if trust_local_code else []
    defaults = {
        "--workers": None,
        "--executor": "local",
        "--retries": RETRIES,
        "--save-every": None,
    }
    values = dict(zip(defaults, (workers, executor, retries, save_every), strict=True))
    options = [
        word for name, value in values.items() if value != defaults[name] for word in (name, str(value))
    ]
    typed = ["sidetune", "sweep", *argv, "--out", str(out), *options, *trusting]
    words = ["sweep", "--dry-run", "--json", *trusting, "--", *argv]
    planning = [sys.executable, "-P", "-c", _MAIN, strict_json.dumps(typed), *words]
    # in another process: plugins import torch, half a gigabyte that this one does not need
    planner = subprocess.run(planning, stdout=subprocess.PIPE)
    if planner.returncode:
        return planner.returncode
    plan = strict_json.loads(planner.stdout.decode())
    chosen = sweeping.choose(executor, workers)
    for line in (*plan["notes"], f"{chosen}, at most {counted(chosen.threads, 'thread')} each; {out}"):
        print_aside(line)
    planned = [grid.PlannedRun(**run) for run in plan["runs"]]
    about = {"grid": list(argv), "notes": plan["notes"]}
    try:
        swept = sweeping.carry_out(
            planned, out, chosen, retries, save_every, print_aside, about, trust_local_code
        )
    except Interrupted as stop:
        print(f"\nInterrupted. Resume with: {one_line(shlex.join(typed))}", file=sys.stderr)
        return 128 + stop.number
    ended = tuple(run.folder for run in swept if run.status in ("done", "diverged"))
    if ended:
        print()
        report(ended)
        print_aside(f"report again with: {one_line(shlex.join(['sidetune', 'report', str(out)]))}")
    others = [run for run in swept if run.status in ("diverged", "failed")]
    for run in others:
        print_aside(f"{run.status}: {run.name}: {run.reason}")
    return 1 if others else 0


def _show(plan: grid.Plan, out: Path, json: bool) -> None:
    if json:
        print_json(attrs.asdict(plan))
        return
    for note in plan.notes:
        print_aside(note)
    table = [
        [state, run.name, run.composition]
        for state, run in zip(sweeping.states(plan.runs, out), plan.runs, strict=True)
    ]
    print(aligned([["state", "run", "composition"], *table], left={0, 1, 2}))


_MAIN = (
    "import json, sys; from sidetune_core.cli.main import main; "
    "sys.exit(main(sys.argv[2:], typed=json.loads(sys.argv[1])))"
)
