"""A run from its spec to its folder: compose, build, learn, report."""

from __future__ import annotations

import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from sidetune_core import __version__
from sidetune_core.assembly.build import build_learner, build_stream
from sidetune_core.assembly.predict import make_predict
from sidetune_core.config.interval import Interval, interval
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.config.spec import RunSpec, from_values
from sidetune_core.distributed.process_group import ProcessGroup, join_process_group
from sidetune_core.errors import Interrupted, RunError, SidetuneError, WriteError
from sidetune_core.feature_cache.cache import GIB, FeatureCache
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.results.metrics import MIXED, Results
from sidetune_core.results.report import run_report
from sidetune_core.results.summary import read_results, summarise
from sidetune_core.storage import checkpoint, run_folder
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.lock import locked
from sidetune_core.storage.run_folder import Clock, RunFolder
from sidetune_core.system import device
from sidetune_core.system.device import Machine
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import StopRequested, handle_signals
from sidetune_core.training.context import Curve, Session
from sidetune_core.training.loop import learn

SAVE_EVERY = "60s"


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
        return read_results(self.folder)

    def predict(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        """The output of a task's head for inputs (B, *shape) by name, in float32 on the CPU."""
        task = next((task for task in self.tasks if task.id == task_id), None)
        if task is None:
            raise SidetuneError(
                f"no task '{task_id}' in this run; it has {', '.join(task.id for task in self.tasks)}"
            )
        return make_predict(self.learner, task, self.machine)(Inputs(dict(inputs))).cpu()


def run(
    spec: RunSpec, out: Path | str | None = None, quiet: bool = True, save_every: str = SAVE_EVERY
) -> Run:
    """Run a spec into a new folder; under `torchrun`, in all its processes together, of which the first one writes.

    Args:
        spec: names and options.
        out: the folder, which must be empty or absent; None for one below ``runs/``.
        quiet: show no progress.
        save_every: how often to write down where the run is: steps (``200``), seconds (``30s``), or ``none``.

    Raises:
        SidetuneError: with what to do about it; what was finished before it is in the folder.
        Interrupted: SIGINT or SIGTERM came; the state is in the folder.
    """
    path = Path(out) if out is not None else None
    often = interval(save_every)
    with join_process_group() as group:
        if group.is_main:
            run_folder.check_free(path)
        composition = resolve(spec)
        with closing(build_stream(composition)) as stream:
            progress = Progress(quiet=quiet or not group.is_main)
            learner, tasks = _build(composition, stream, group, progress)
            if not tasks:
                raise RunError(f"{composition.components['env'].owner} has no tasks")
            if len({task.higher_is_better for task in tasks}) > 1:
                owner = composition.components["env"].owner
                raise RunError(
                    f"{owner} has tasks whose metrics rise and others whose fall as they get better, and no mean fits both"
                )
            machine = device.choose(composition.device, group.local)
            name = "-".join(
                composition.components[slot].plugin.name.split(":")[-1] for slot in ("env", "learner")
            )
            folder = attrs.evolve(
                group.broadcast_from_main(lambda: run_folder.create(path, name)), writes=group.is_main
            )
            with _held(folder):
                if group.is_main:
                    folder.write_json(
                        "run.json",
                        _about(spec, composition, machine, tasks, group) | {"save_every": save_every},
                    )
                return _carry_out(
                    composition, folder, learner, tasks, machine, group, stream.fingerprint(), progress, often
                )


def resume(path: Path | str, quiet: bool = True, save_every: str | None = None) -> Run:
    """Go on with a run from its newest whole state, to the same bytes as if it had never stopped; a run that is done ends at once.

    Args:
        path: the run folder.
        quiet: show no progress.
        save_every: see `run`; None for what the run was begun with.

    Raises:
        SidetuneError: the folder holds no run, another process is at work on it, or the run cannot be built again.
        Interrupted: SIGINT or SIGTERM came; the state is in the folder.
    """
    with join_process_group() as group:
        folder, about = group.broadcast_from_main(lambda: _open(Path(path)))
        folder = attrs.evolve(folder, writes=group.is_main)
        often = interval(save_every if save_every is not None else about.get("save_every", SAVE_EVERY))
        composition = resolve(
            from_values(about.get("resolved"), str(folder.path / "run.json"), recorded=True)
        )
        with _held(folder), closing(build_stream(composition)) as stream:
            progress = Progress(quiet=quiet or not group.is_main)
            learner, tasks = _build(composition, stream, group, progress)
            if [task.id for task in tasks] != [task["id"] for task in about["tasks"]]:
                raise RunError(f"the env no longer gives the tasks that {folder.path} was started with")
            machine = device.choose(composition.device, group.local)
            return _carry_out(
                composition, folder, learner, tasks, machine, group, stream.fingerprint(), progress, often
            )


def _build(
    composition: ResolvedRun, stream: TaskStream, group: ProcessGroup, progress: Progress
) -> tuple[Learner, Sequence[Task]]:
    stream.info = progress.info
    with group.main_process_first():
        return build_learner(composition, stream), stream.tasks()


def _open(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """A run that can be gone on with, and its ``run.json``."""
    folder = run_folder.open_run(path)
    checkpoint.check_version(folder.checkpoints)
    return folder, folder.read_json("run.json")


def _held(folder: RunFolder) -> AbstractContextManager[object]:
    """The folder's lock, for the process that writes."""
    return locked(folder.path) if folder.writes else nullcontext()


def _carry_out(
    composition: ResolvedRun,
    folder: RunFolder,
    learner: Learner,
    tasks: Sequence[Task],
    machine: Machine,
    group: ProcessGroup,
    data: str,
    progress: Progress,
    save_every: Interval,
) -> Run:
    options = composition.train
    clock = Clock(folder, machine.peak_memory)
    side = composition.components.get("side")
    store = None
    if composition.cache.mode != "off":
        store = FeatureCache(
            limit=round(composition.cache.limit * GIB),
            keep_taps=bool(side and side.cls.needs_taps) or composition.components["learner"].cls.needs_taps,
            info=progress.info,
            folder=composition.cache.dir.expanduser() if composition.cache.mode == "disk" else None,
            data=data,
        )
    try:
        folder.set_status("running")
        where = str(machine) if group.size == 1 else f"{group.size} processes, {machine}"
        folder.log(f"started: {composition} on {where}")
        progress.info(f"{composition}\n{len(tasks)} tasks on {where} → {folder.path}")
        with (
            handle_signals(progress.notice) as stop,
            _board(folder.path / "tb") if group.is_main else nullcontext() as board,
        ):

            def curve(figures: Mapping[str, float], step: int) -> None:
                if board is None:
                    return
                with writing(folder.path / "tb"):
                    for name, value in figures.items():
                        board.add_scalar(name, value, step)

            def show(name: str, picture: Tensor, step: int) -> None:
                if board is None:
                    return
                with writing(folder.path / "tb"):
                    board.add_image(name, picture, step)

            session = Session(
                options=options,
                seed=composition.seed,
                machine=machine,
                folder=folder,
                store=store,
                progress=progress,
                curve=curve,
                save_every=save_every,
                stop=stop,
                clock=clock,
                group=group,
                show=show,
            )
            learn(learner, tasks, session)
            if group.is_main:
                _plot_results(curve, read_results(folder))
        _end(folder, "done", clock)
        if group.is_main:
            with writing(folder.path / "report.md"):
                write_text(folder.path / "report.md", run_report(summarise(folder)))
    except KeyboardInterrupt as stopped:
        _end(folder, "interrupted", clock)
        number = stopped.number if isinstance(stopped, StopRequested) else signal.SIGINT
        raise Interrupted(folder.path, number, told=group.is_main) from stopped
    except WriteError as error:
        with suppress(WriteError):
            _end(folder, f"failed: {error}", clock)
        kept = checkpoint.find(folder.checkpoints, progress.warning)
        raise WriteError(
            f"{error}. The run is kept {f'as it was {kept}' if kept else 'at its start'}; when that is mended, go on with: "
            f"{run_folder.resume_command(folder.path)}"
        ) from error
    except BaseException as error:
        _end(folder, f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}", clock)
        raise
    return Run(folder, learner, tasks, machine)


def _end(folder: RunFolder, status: str, clock: Clock) -> None:
    """Write down how this part of a run ended, and how long it took."""
    seconds = clock.note()
    folder.set_status(status)
    folder.log(f"{status} after {seconds:.1f} s")


@contextmanager
def _board(path: Path) -> Iterator[SummaryWriter]:
    """TensorBoard's files, begun anew: what they hold is drawn again from the lines of the run folder."""
    with writing(path):
        if path.is_dir():
            shutil.rmtree(path)
        board = SummaryWriter(str(path))
    try:
        yield board
    finally:
        with writing(path):
            board.close()


def _about(
    spec: RunSpec, composition: ResolvedRun, machine: Machine, tasks: Sequence[Task], group: ProcessGroup
) -> dict[str, Any]:
    """What ``run.json`` holds."""
    return {
        "asked": spec.to_json(),
        "resolved": composition.to_spec().to_json(),
        "composition": str(composition),
        "plugins": {
            slot: {"distribution": component.plugin.origin, "class": component.plugin.target}
            for slot, component in composition.components.items()
        },
        "tasks": [{"id": task.id, "title": task.title, "metric": task.metric} for task in tasks],
        "metric": tasks[0].metric if len({task.metric for task in tasks}) == 1 else MIXED,
        "higher_is_better": tasks[0].higher_is_better,
        "machine": str(machine),
        "processes": group.size,
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
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        status = git(
            "status", "--porcelain", "--", ":/", ":(exclude,top)ledger/recorded"
        )  # records are made one after another
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(status)}
    except (OSError, subprocess.SubprocessError):
        return None


def _plot_results(curve: Curve, results: Results) -> None:
    """One curve for each task: its figure after each task of the stream."""
    for row, figures in enumerate(results.rows):
        for task, figure in zip(results.tasks, figures, strict=True):
            if figure is not None:
                curve({f"R/{task}": figure}, row)
