"""A run from its spec to its folder: resolve, build, train, report."""

from __future__ import annotations

import platform
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, closing, contextmanager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core import __version__
from sidetune_core.assembly.build import build_learner, build_stream
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.restore import read_resolved
from sidetune_core.config.interval import Interval, interval
from sidetune_core.config.plugin_record import Segment
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.distributed.process_group import ProcessGroup, join_process_group
from sidetune_core.errors import Diverged, Interrupted, RunError, SidetuneError, WriteError
from sidetune_core.feature_cache.cache import GIB, FeatureCache
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.results.metrics import MIXED, Results
from sidetune_core.results.report import run_report
from sidetune_core.results.summary import outcome, read_results, summarise
from sidetune_core.storage import checkpoint, run_folder
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.lock import locked
from sidetune_core.storage.run_folder import DIVERGED, DONE, Clock, RunFolder, resume_command
from sidetune_core.system import device
from sidetune_core.system.device import Machine
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import StopRequested, handle_signals
from sidetune_core.training.context import Context
from sidetune_core.training.loop import learn
from sidetune_core.training.recorder import Recorder, RunRecorder, tensorboard

SAVE_EVERY = "60s"
"""How often a run saves its state within a task, by default."""


@attrs.frozen(eq=False)
class Run:
    """A finished run: its folder, its results, and everything that was trained."""

    folder: RunFolder
    learner: Learner
    tasks: Sequence[Task]
    machine: Machine
    is_main: bool = True
    """Whether this is the process that has written the folder; of several, it is the first."""

    @property
    def results(self) -> Results:
        """R on the test split."""
        return read_results(self.folder)

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None = None) -> Tensor:
        """The prediction for inputs (B, *shape) by name, in float32 on the CPU.

        Args:
            inputs: a batch.
            task_id: the task that they belong to; None where it is not known (see `Learner.predict`).

        Raises:
            FitError: the learner needs to know the task.
            SidetuneError: the run has no such task.
        """
        task = next((task for task in self.tasks if task.id == task_id), None)
        if task is None and task_id is not None:
            known = ", ".join(task.id for task in self.tasks)
            raise SidetuneError(f"no task '{task_id}' in this run; it has {known}")
        return make_predict(self.learner, task, self.machine)(Inputs(dict(inputs))).cpu()


def run(
    spec: RunSpec | ResolvedRun,
    out: Path | str | None = None,
    quiet: bool = True,
    save_every: str = SAVE_EVERY,
) -> Run:
    """Run a spec into a new folder. Under `torchrun` all processes run it together, and the first one writes.

    Args:
        spec: names and options, or what they were resolved to.
        out: the folder, which must be empty or absent; None for a new one in ``runs/``.
        quiet: show no progress.
        save_every: how often the state within a task is saved: steps (``200``), seconds (``30s``), or
            ``none``.

    Raises:
        SidetuneError: with what to do next; the folder keeps what was finished before.
        Interrupted: SIGINT or SIGTERM came; the state is in the folder.
    """
    path = Path(out) if out is not None else None
    save_interval = interval(save_every)
    with join_process_group() as group:
        if group.is_main:
            run_folder.check_free(path)
        resolved = spec if isinstance(spec, ResolvedRun) else resolve(spec)
        with closing(_open_stream(resolved)) as stream:
            job = _assemble(resolved, stream, group, quiet)
            _check_tasks(job)
            name = "-".join(
                resolved.components[slot].plugin.name.split(":")[-1] for slot in ("env", "learner")
            )
            folder = group.broadcast_from_main(lambda: run_folder.create(path, name))
            with locked(folder.path) if group.is_main else nullcontext():
                if group.is_main:
                    about = _about(job) | {"save_every": save_every}
                    folder.write_json("run.json", about)
                    job.notes.extend(about.get("spec_changes", ()))
                return _train(job, folder, save_interval)


def resume(
    path: Path | str,
    quiet: bool = True,
    save_every: str | None = None,
    allow_changed_plugins: bool = False,
) -> Run:
    """Resume a run from its latest checkpoint, to the same bytes as without the interruption. A finished run
    ends at once.

    Args:
        path: the run folder.
        quiet: show no progress.
        save_every: see `run`; None for the interval that the run was begun with.
        allow_changed_plugins: resume also where the source of a plugin is not the one that the run was made
            with; ``run.json`` then records from which step on.

    Raises:
        SidetuneError: the folder holds no run, another process works in it, its components cannot be built,
            or the source of a plugin has changed.
        Interrupted: SIGINT or SIGTERM came; the state is in the folder.
    """
    with join_process_group() as group:
        folder, about = group.broadcast_from_main(lambda: _open(Path(path)))
        save_interval = interval(
            save_every if save_every is not None else about.get("save_every", SAVE_EVERY)
        )
        resolved = read_resolved(folder)
        changed = group.broadcast_from_main(lambda: _accepted(folder, resolved, allow_changed_plugins))
        with (
            locked(folder.path) if group.is_main else nullcontext(),
            closing(_open_stream(resolved)) as stream,
        ):
            job = _assemble(resolved, stream, group, quiet)
            if [task.id for task in job.tasks] != [task["id"] for task in about["tasks"]]:
                raise RunError(f"the env no longer has the tasks that {folder.path} was started with")
            if changed and group.is_main:
                job.notes.extend(_begin_segment(job, folder, about, changed))
            return _train(job, folder, save_interval)


@attrs.frozen(eq=False)
class _Job:
    """What is trained, on what, and by which processes."""

    resolved: ResolvedRun
    learner: Learner
    tasks: Sequence[Task]
    machine: Machine
    group: ProcessGroup
    progress: Progress
    data_fingerprint: str
    notes: list[str] = attrs.field(factory=list)
    """What to report about the plugins, on screen and in ``log.txt``."""

    @property
    def where(self) -> str:
        """The device, and how many processes if there are several."""
        return str(self.machine) if self.group.size == 1 else f"{self.group.size} processes, {self.machine}"


def _open_stream(resolved: ResolvedRun) -> TaskStream:
    """The env. The run folder stays where it is, whatever current folder the env prefers."""
    with chdir("."):
        return build_stream(resolved)


def _assemble(resolved: ResolvedRun, stream: TaskStream, group: ProcessGroup, quiet: bool) -> _Job:
    """Build the learner and read the data; the first process of each computer goes first, since it may
    download.
    """
    progress = Progress(quiet=quiet or not group.is_main)
    stream.info = progress.info
    with group.main_process_first(), chdir("."):
        learner, tasks = build_learner(resolved, stream), stream.tasks()
    machine = device.choose(resolved.device, group.local)
    return _Job(resolved, learner, tasks, machine, group, progress, stream.fingerprint())


def _check_tasks(job: _Job) -> None:
    owner = job.resolved.components["env"].owner
    if not job.tasks:
        raise RunError(f"{owner} has no tasks")
    ids = [task.id for task in job.tasks]
    if repeated := next((name for name in ids if ids.count(name) > 1), None):
        raise RunError(
            f"{owner} has {ids.count(repeated)} tasks with the id '{repeated}'; each needs its own"
        )
    for name in ids:
        run_folder.check_file_name(name, f"{owner} gives a task")
    for task in job.tasks:
        if isinstance(task.splits, str) or "test" not in task.splits:
            raise RunError(
                f"{owner}: task '{task.id}' has splits {task.splits!r}; it needs a tuple of names with "
                "'test', on which R is measured"
            )
    if len({task.higher_is_better for task in job.tasks}) > 1:
        raise RunError(f"{owner} mixes metrics where higher is better and where lower is; R cannot hold both")


def _open(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """A run that can be resumed, and its ``run.json``."""
    folder = run_folder.open_run(path)
    checkpoint.check_version(folder.checkpoints)
    return folder, folder.read_json("run.json")


def _accepted(folder: RunFolder, resolved: ResolvedRun, allowed: bool) -> list[str]:
    """The plugins that have changed since the run was begun, or resumed last.

    Raises:
        RunError: the source of one has changed, the run is not finished, and this is not allowed.
    """
    changes = resolved.plugin_changes()
    refused = [change for change in changes if change.source_changed]
    if refused and not allowed and not folder.finished:
        raise RunError(
            f"{folder.path} was made with another plugin, {'; '.join(map(str, refused))}: "
            f"{refused[0].remedy}, or resume it with what is installed: "
            f"{resume_command(folder.path)} --allow-changed-plugins"
        )
    return [str(change) for change in changes]


def _begin_segment(job: _Job, folder: RunFolder, about: dict[str, Any], changed: Sequence[str]) -> list[str]:
    """Record in ``run.json`` with which plugins the run continues, and from where; returns it as text."""
    latest = checkpoint.find(folder.checkpoints, job.progress.warning)
    done = len(latest.done) if latest is not None else 0
    if done == len(job.tasks):
        return [f"another plugin is installed than the run was made with: {change}" for change in changed]
    step = latest.mid_task.step if latest is not None and latest.mid_task is not None else 0
    segment = Segment(job.resolved.plugin_records(), job.tasks[done].id, step)
    about["segments"] = [*about.get("segments", []), segment.to_json()]
    folder.write_json("run.json", about)
    return [f"from task {segment.task}, step {step} on: {change}" for change in changed]


def _train(job: _Job, folder: RunFolder, save_every: Interval) -> Run:
    """Train from the latest checkpoint of the folder, or from the start, to the end."""
    clock = Clock(folder, job.machine.peak_memory)
    with (
        _status(job, folder, clock),
        handle_signals(job.progress.notice) as stop,
        _recorder(job, folder, clock) as recorder,
    ):
        job.progress.info(f"{job.resolved}\n{len(job.tasks)} tasks on {job.where} → {folder.path}")
        for note in job.notes if job.group.is_main else ():
            job.progress.warning(note)
            folder.log(note)
        context = Context(
            options=job.resolved.train,
            seed=job.resolved.seed,
            machine=job.machine,
            group=job.group,
            cache=_make_cache(job),
            stop=stop,
            save_every=save_every,
        )
        learn(job.learner, job.tasks, context, recorder)
        recorder.draw_results()
    return Run(folder, job.learner, job.tasks, job.machine, job.group.is_main)


def _make_cache(job: _Job) -> FeatureCache | None:
    options, components = job.resolved.cache, job.resolved.components
    if options.mode == "off":
        return None
    readers = [components[slot].cls for slot in ("side", "learner") if slot in components]
    return FeatureCache(
        limit=round(options.limit * GIB),
        keep_taps=any(reader.needs_taps for reader in readers),
        info=job.progress.info,
        warning=job.progress.warning if job.group.is_main else job.progress.info,
        shared_ids=components["env"].cls.shared_ids,
        folder=options.dir.expanduser() if options.mode == "disk" else None,
        data=job.data_fingerprint,
    )


@contextmanager
def _recorder(job: _Job, folder: RunFolder, clock: Clock) -> Iterator[Recorder]:
    """The recorder of this process."""
    if not job.group.is_main:
        yield Recorder(folder)
        return
    with tensorboard(folder) as board:
        yield RunRecorder(folder, job.progress, clock, board)


@contextmanager
def _status(job: _Job, folder: RunFolder, clock: Clock) -> Iterator[None]:
    """Keep ``status`` and ``log.txt`` of the folder while the run is under way, and write ``report.md`` at
    its end.

    Raises:
        Interrupted: in place of `KeyboardInterrupt`.
        WriteError: with the command that resumes the run.
    """

    def end(status: str) -> None:
        if job.group.is_main:
            seconds = clock.note()
            folder.set_status(status)
            folder.log(f"{status} after {seconds:.1f} s")

    if job.group.is_main:
        folder.set_status("running")
        folder.log(f"started: {job.resolved} on {job.where}")
    try:
        yield
        end(outcome(folder) if job.group.is_main else DONE)
        if job.group.is_main:
            with writing(folder.path / "report.md"):
                write_text(folder.path / "report.md", run_report(summarise(folder)))
    except KeyboardInterrupt as interrupt:
        end("interrupted")
        number = interrupt.number if isinstance(interrupt, StopRequested) else signal.SIGINT
        raise Interrupted(folder.path, number, reports=job.group.is_main) from interrupt
    except Diverged as error:
        end(f"{DIVERGED}: {error.reason.splitlines()[0]}")
        raise
    except WriteError as error:
        with suppress(WriteError):
            end(f"failed: {error}")
        latest = checkpoint.find(folder.checkpoints, job.progress.warning)
        kept = f"Its state {latest} is saved" if latest else "Nothing of it was saved yet"
        raise WriteError(
            f"{error}. {kept}; when the folder is writable again, resume with: {resume_command(folder.path)}"
        ) from error
    except BaseException as error:
        end(f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        raise


def _about(job: _Job) -> dict[str, Any]:
    """The content of ``run.json``."""
    metrics = {task.metric for task in job.tasks}
    changes = [str(change) for change in job.resolved.plugin_changes()]
    return {
        "asked": (job.resolved.requested or job.resolved.to_spec()).to_json(),
        "resolved": job.resolved.to_spec().to_json(),
        "composition": str(job.resolved),
        "plugins": {slot: record.to_json() for slot, record in job.resolved.plugin_records().items()},
        **(
            {"spec_changes": [f"other plugin than in the spec: {change}" for change in changes]}
            if changes
            else {}
        ),
        "tasks": [{"id": task.id, "title": task.title, "metric": task.metric} for task in job.tasks],
        "metric": job.tasks[0].metric if len(metrics) == 1 else MIXED,
        "higher_is_better": job.tasks[0].higher_is_better,
        "machine": str(job.machine),
        "processes": job.group.size,
        "threads": torch.get_num_threads(),
        "versions": {
            "sidetune": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "numpy", "stevedore")},
        },
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """The commit of the checkout that this code runs from, and whether it has changes; None outside a
    checkout.
    """

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
