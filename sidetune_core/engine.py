"""A run from its spec to its folder: compose, build, learn, report."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from sidetune_core import __version__, devices, loop, runs
from sidetune_core.build import build_learner, build_stream
from sidetune_core.compose import Composition, compose
from sidetune_core.devices import Machine
from sidetune_core.errors import Interrupted, RunError, SidetuneError
from sidetune_core.features import GIB, FeatureStore
from sidetune_core.files import write_text
from sidetune_core.learner import Learner
from sidetune_core.metrics import Results
from sidetune_core.parts import Inputs
from sidetune_core.progress import Progress
from sidetune_core.report import run_report
from sidetune_core.runs import RunFolder
from sidetune_core.spec import RunSpec, from_values
from sidetune_core.summary import summarise
from sidetune_core.tasks import Task


@attrs.frozen(eq=False)
class Run:
    """A finished run: its folder, its results, and everything that was trained."""

    folder: RunFolder
    learner: Learner
    tasks: Sequence[Task]
    machine: Machine

    @property
    def results(self) -> Results:
        """R on the test split."""
        return self.folder.results()

    def predict(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        """The output of a task's head for inputs (B, *shape) by name, in float32 on the CPU."""
        task = next((task for task in self.tasks if task.id == task_id), None)
        if task is None:
            raise SidetuneError(f"no task '{task_id}' in this run; it has {', '.join(task.id for task in self.tasks)}")
        return loop.make_act(self.learner, task, self.machine)(Inputs(dict(inputs))).cpu()


def run(spec: RunSpec, out: Path | str | None = None, quiet: bool = True) -> Run:
    """Run a spec into a new folder.

    Args:
        spec: names and options.
        out: the folder, which must be empty or absent; None for one below ``runs/``.
        quiet: show no progress.

    Raises:
        SidetuneError: with what to do about it; what was finished before it is in the folder.
    """
    path = Path(out) if out is not None else None
    runs.check_free(path)
    composition = compose(spec)
    with closing(build_stream(composition)) as stream:
        learner = build_learner(composition, stream)
        tasks = stream.tasks()
        if not tasks:
            raise RunError(f"{composition.parts['env'].owner} has no tasks")
        machine = devices.choose(composition.train)
        folder = runs.create(path, "-".join(composition.parts[slot].plugin.name.split(":")[-1] for slot in ("env", "learner")))
        folder.write_json("run.json", _about(spec, composition, machine, tasks))
        return _carry_out(composition, folder, learner, tasks, machine, stream.fingerprint(), Progress(quiet=quiet))


def resume(path: Path | str, quiet: bool = True) -> Run:
    """Go on with a run from its newest checkpoint; a run that is done is only read.

    Raises:
        SidetuneError: the folder holds no run, or the run cannot be built again.
    """
    folder = runs.open_run(Path(path))
    about = folder.read_json("run.json")
    composition = compose(from_values(about.get("resolved"), str(folder.path / "run.json")))
    with closing(build_stream(composition)) as stream:
        learner = build_learner(composition, stream)
        tasks = stream.tasks()
        if [task.id for task in tasks] != [task["id"] for task in about["tasks"]]:
            raise RunError(f"the env no longer gives the tasks that {folder.path} was started with")
        machine = devices.choose(composition.train)
        return _carry_out(composition, folder, learner, tasks, machine, stream.fingerprint(), Progress(quiet=quiet))


def _carry_out(
    composition: Composition,
    folder: RunFolder,
    learner: Learner,
    tasks: Sequence[Task],
    machine: Machine,
    data: str,
    progress: Progress,
) -> Run:
    options = composition.train
    began = time.monotonic()
    folder.set_status("running")
    folder.log(f"started: {composition} on {machine}")
    progress.say(f"{composition}\n{len(tasks)} tasks on {machine} → {folder.path}")
    side = composition.parts.get("side")
    store = None
    if options.store != "off":
        store = FeatureStore(
            limit=round(options.store_limit * GIB),
            keep_taps=bool(side and side.cls.uses_taps) or composition.parts["learner"].cls.uses_taps,
            say=progress.say,
            folder=options.store_dir.expanduser() if options.store == "disk" else None,
            data=data,
        )
    with SummaryWriter(str(folder.path / "tb")) as board:

        def curve(figures: Mapping[str, float], step: int) -> None:
            for name, value in figures.items():
                board.add_scalar(name, value, step)

        session = loop.Session(options, composition.seed, machine, folder, store, progress, curve)
        try:
            loop.learn(learner, tasks, session)
        except KeyboardInterrupt as stop:
            folder.set_status("interrupted")
            folder.log("interrupted")
            raise Interrupted(folder.path) from stop
        except BaseException as error:
            folder.set_status(f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            folder.log(f"failed: {error!r}")
            raise
        finally:
            folder.append("seconds.jsonl", {"seconds": round(time.monotonic() - began, 3)})
        _plot_results(board, folder.results())
    folder.set_status("done")
    folder.log(f"done after {time.monotonic() - began:.1f} s")
    write_text(folder.path / "report.md", run_report(summarise(folder)))
    return Run(folder, learner, tasks, machine)


def _about(spec: RunSpec, composition: Composition, machine: Machine, tasks: Sequence[Task]) -> dict[str, Any]:
    """What ``run.json`` holds."""
    return {
        "asked": spec.to_json(),
        "resolved": composition.resolved().to_json(),
        "composition": str(composition),
        "plugins": {slot: {"distribution": part.plugin.origin, "class": part.plugin.target} for slot, part in composition.parts.items()},
        "tasks": [{"id": task.id, "title": task.title} for task in tasks],
        "metric": tasks[0].metric,
        "higher_is_better": tasks[0].higher_is_better,
        "machine": str(machine),
        "threads": torch.get_num_threads(),
        "versions": {
            "sidetune": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "numpy", "stevedore")},
        },
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the checkout that this code is run from, and whether it has changes; None where it was installed from a wheel."""

    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _plot_results(board: SummaryWriter, results: Results) -> None:
    """One curve for each task: its figure after each task of the stream."""
    for row, figures in enumerate(results.rows):
        for task, figure in zip(results.tasks, figures, strict=True):
            if figure is not None:
                board.add_scalar(f"R/{task}", figure, row)
