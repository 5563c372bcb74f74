"""`sidetune sweep`: a grid of runs."""

from __future__ import annotations

import json as jsons
import shlex
import subprocess
import sys
from pathlib import Path

import attrs
from tyro.conf import Positional

from sidetune_core.cli.commands import runs
from sidetune_core.cli.commands.shared import Switch, print_json
from sidetune_core.errors import Interrupted
from sidetune_core.results.tables import aligned
from sidetune_core.sweeps import grid
from sidetune_core.sweeps import runner as sweeping
from sidetune_core.sweeps.runner import On, print_aside


def sweep(
    words: Positional[tuple[str, ...]] = (),
    out: Path = Path("sweep"),
    workers: int | None = None,
    on: On = "local",
    retries: int = sweeping.RETRIES,
    save_every: str | None = None,
    dry_run: Switch = False,
    json: Switch = False,
) -> int:
    """Run every combination of parts, options and seeds: the options of sidetune-run, with lists as their values.

    sidetune sweep --learner sidetune,ewc,finetune --merger alpha,mlp --seed 0..4 --train.lr 1e-3,5e-3 --out sweeps/first

    A value that has a comma itself stands in double quotes: '"a,b",c'. In place of options, a .toml file can be named: a spec with a table
    [grid] of lists. A part or an option that a composition has no use for is left out of it, and points that come to the same
    composition are one run. The same command again passes over what is done and goes on with what was stopped or killed.

    Args:
        words: a grid file, or the options of sidetune-run.
        out: the folder of the sweep; runs go to OUT/runs/NAME.
        workers: how many runs at once; where it is left out, one on each GPU, or for every four cores where there is none.
        on: processes of this machine, or the Ray cluster of $RAY_ADDRESS (one that begins here where it is not set).
        retries: how often to go on with a run whose process was killed.
        save_every: how often a run writes down where it is: steps (200), seconds (30s), or none.
        dry_run: show the runs and how far they are, and stop.
        json: with --dry-run, the whole plan as JSON.
    """
    if dry_run:
        _show(grid.plan(grid.read(words)), out, json)
        return 0
    planning = [sys.executable, "-P", "-c", _MAIN, "sweep", "--dry-run", "--json", "--", *words]
    shown = subprocess.run(
        planning, stdout=subprocess.PIPE
    )  # plugins import torch: half a gigabyte, which is given back so
    if shown.returncode:
        return shown.returncode
    plan = jsons.loads(shown.stdout)
    executor = sweeping.choose(on, workers)
    for line in (*plan["notes"], f"{executor}, threads each: {executor.threads}; {out}"):
        print_aside(line)
    planned = [grid.PlannedRun(**run) for run in plan["runs"]]
    about = {"grid": list(words), "notes": plan["notes"]}
    try:
        swept = sweeping.carry_out(planned, out, executor, retries, save_every, print_aside, about)
    except Interrupted as stop:
        usual = {"--workers": None, "--on": "local", "--retries": sweeping.RETRIES, "--save-every": None}
        given = {"--workers": workers, "--on": on, "--retries": retries, "--save-every": save_every}
        options = [
            word for name, value in given.items() if value != usual[name] for word in (name, str(value))
        ]
        print_aside(
            f"\ninterrupted; go on with: {shlex.join(['sidetune', 'sweep', *words, '--out', str(out), *options])}"
        )
        return 128 + stop.number
    done = tuple(one.folder for one in swept if one.status == "done")
    if done:
        print()
        runs.report(done)
    failed = [one for one in swept if one.status == "failed"]
    for one in failed:
        print_aside(f"failed: {one.name}: {one.reason}")
    return 1 if failed else 0


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


_MAIN = "import sys; from sidetune_core.cli.main import main; sys.exit(main())"
