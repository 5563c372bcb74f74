"""`sidetune tune`: a search of options on the validation split."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch, print_json
from sidetune_core.errors import Interrupted, OptionError
from sidetune_core.io import strict_json
from sidetune_core.io.printable import counted, one_line, printable
from sidetune_core.sweeps import runner as sweeping
from sidetune_core.sweeps import tuner
from sidetune_core.sweeps.attempts import RETRIES
from sidetune_core.sweeps.ranges import Fixed
from sidetune_core.sweeps.runner import ExecutorName, print_aside
from sidetune_core.sweeps.search_record import record_search
from sidetune_core.sweeps.space import Space, plan_space, read_space
from sidetune_core.sweeps.study import Pruner, Sampler, import_optuna
from sidetune_core.sweeps.tuning_report import report_search

TRIALS = 20


def tune(
    argv: Positional[tuple[str, ...]] = (),
    out: Path = Path("tuning"),
    trials: int | None = None,
    first_tasks: int | None = None,
    sampler: Sampler = "tpe",
    pruner: Pruner = "none",
    sampler_seed: int = 0,
    parallel: int | None = None,
    executor: ExecutorName = "local",
    retries: int = RETRIES,
    save_every: str | None = None,
    report: Path | None = None,
    record: Path | None = None,
    dry_run: Switch = False,
    json: Switch = False,
    trust_local_code: Switch = False,
) -> int:
    """Search options on the validation split: the options of sidetune-run, with ranges or lists as values.

    sidetune tune --env icifar --side fork --train.lr 1e-4..1e-2:log --side.blocks 2,4,7 --trials 12
    --first-tasks 3 --out tunings/fork

    A range LOW..HIGH is uniform, LOW..HIGH:log log-uniform; LOW..HIGH:log:5 has five values. The test split
    is never evaluated. If the tasks have no split val, a tenth of the training examples is held out. At the
    end, OUT/best.toml is the spec of the best trial, for all tasks and all training examples. The same
    command resumes a search; with more --trials, it continues it.

    Args:
        argv: options of sidetune-run.
        out: folder of the search; trials are written to OUT/runs/trial-NNN.
        trials: number of trials that are done, pruned or diverged in the end; default: 20, or all points of a
            grid.
        first_tasks: train and measure the first tasks of the env only; default: all.
        sampler: random, tpe (tree-structured Parzen estimator), or grid, all points in order.
        pruner: none, or halving: asynchronous successive halving after 1, 2, 4, … tasks.
        sampler_seed: seed of the sampler; the seed of the runs is --seed.
        parallel: number of concurrent trials; default: one per GPU, or one per four cores without a GPU.
        executor: processes of this machine, or the Ray cluster of $RAY_ADDRESS (a local one if that is not
            set).
        retries: how often to resume a trial whose process was killed.
        save_every: interval between checkpoints within a task: steps (200), seconds (30s), or none.
        report: print the report of the search in this folder, and exit.
        record: also write the search to this file, such as ledger/searches/NAME.json; its code must be
            committed.
        dry_run: print what is searched, and exit.
        json: with --dry-run, print it as JSON.
        trust_local_code: import code that the spec or the data names (module:Class).
    """
    if report is not None:
        if argv:
            raise OptionError(f"--report reads the search in {report}; leave out {argv[0]}")
        print(printable(report_search(report, trust_local_code=trust_local_code)))
        return _record(report, record)
    if dry_run:
        space = plan_space(argv, first_tasks, trust_local_code)
        if json:
            print_json(space.to_json())
        else:
            _show(space)
        return 0
    import_optuna()
    given = {
        "--trials": trials,
        "--first-tasks": first_tasks,
        "--sampler": None if sampler == "tpe" else sampler,
        "--pruner": None if pruner == "none" else pruner,
        "--sampler-seed": sampler_seed or None,
        "--parallel": parallel,
        "--executor": None if executor == "local" else executor,
        "--retries": None if retries == RETRIES else retries,
        "--save-every": save_every,
        "--record": record,
    }
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    trusting = ["--trust-local-code"] if trust_local_code else []
    typed = ["sidetune", "tune", *argv, "--out", str(out), *options, *trusting]
    prefix = ["--first-tasks", str(first_tasks)] if first_tasks is not None else []
    words = ["tune", "--dry-run", "--json", *prefix, *trusting, "--", *argv]
    # in another process: plugins import torch, half a gigabyte that this one does not need
    planning = [sys.executable, "-P", "-c", _MAIN, strict_json.dumps(typed), *words]
    planner = subprocess.run(planning, stdout=subprocess.PIPE)
    if planner.returncode:
        return planner.returncode
    space = read_space(strict_json.loads(planner.stdout.decode()))
    search = tuner.Search(space, sampler, pruner, sampler_seed, tuple(argv))
    chosen = sweeping.choose(executor, parallel)
    for line in (*space.notes, f"{chosen}, at most {counted(chosen.threads, 'thread')} each; {out}"):
        print_aside(line)
    wanted = trials if trials is not None else _default_trials(space, sampler)
    try:
        outcome = tuner.tune(search, out, wanted, chosen, retries, save_every, print_aside, trust_local_code)
    except Interrupted as stop:
        print(f"\nInterrupted. Resume with: {one_line(shlex.join(typed))}", file=sys.stderr)
        return 128 + stop.number
    if outcome.note:
        print_aside(outcome.note)
    print(f"\n{printable(report_search(out, trust_local_code=trust_local_code))}")
    return _record(out, record) or int(all(trial.state != "done" for trial in outcome.trials))


def _default_trials(space: Space, sampler: Sampler) -> int:
    return max(1, sum(1 for _ in space.points())) if sampler == "grid" else TRIALS


def _record(out: Path, path: Path | None) -> int:
    if path is not None:
        record_search(out, path)
        print(one_line(path))
    return 0


def _show(space: Space) -> None:
    for note in space.notes:
        print_aside(note)
    for one in space.combinations:
        print(one_line(one.composition))
        for name, axis in one.axes.items():
            if not isinstance(axis, Fixed) and name not in one.components:
                print(one_line(f"  --{name} {axis}"))
    arrow = "higher" if space.higher_is_better else "lower"
    tasks = counted(space.first_tasks, "task")
    print(f"mean {space.metric} ({arrow} is better) on split val after the last of the first {tasks}")


_MAIN = (
    "import json, sys; from sidetune_core.cli.main import main; "
    "sys.exit(main(sys.argv[2:], typed=json.loads(sys.argv[1])))"
)
