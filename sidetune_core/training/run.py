"""A run from its spec to its folder: resolve, build, train, report."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs
from torch import Tensor, nn

from sidetune_core.assembly.cards import CardTask, DataNeeded, make_card, write_cards
from sidetune_core.assembly.objects import require_network, require_tasks
from sidetune_core.assembly.parts import read_parts
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.restore import read_resolved
from sidetune_core.config.data_paths import with_moved_data
from sidetune_core.config.extensions import read_extensions
from sidetune_core.config.given import as_objects, unwritten
from sidetune_core.config.interval import Interval, interval
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.config.selection import Measured, Selection, read_selection
from sidetune_core.config.spec import RunSpec, Trust, make_spec
from sidetune_core.distributed.process_group import ProcessGroup, join_process_group
from sidetune_core.errors import (
    Diverged,
    FitError,
    Interrupted,
    OptionError,
    RolloutError,
    RunError,
    SidetuneError,
    WriteError,
)
from sidetune_core.interfaces.capabilities import HasSummary
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import Base
from sidetune_core.interfaces.tasks import Task
from sidetune_core.io.cache_folders import cache_path, in_use
from sidetune_core.io.printable import counted
from sidetune_core.results.metrics import Results
from sidetune_core.results.report import run_report
from sidetune_core.results.summary import check_rows, outcome, read_results, summarise
from sidetune_core.rl.rollout_task import TakesObservations
from sidetune_core.storage import checkpoint, run_folder
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.compaction import KEEP_LAST, Keep
from sidetune_core.storage.data_file import add_data
from sidetune_core.storage.lock import locked
from sidetune_core.storage.run_folder import (
    CARDS,
    DATA,
    DIVERGED,
    DONE,
    LOG,
    SECONDS,
    Clock,
    RunFolder,
    resume_command,
)
from sidetune_core.system.device import Machine
from sidetune_core.system.energy import EnergyMeter
from sidetune_core.system.signals import StopRequested, handle_signals
from sidetune_core.system.threads import Threads, use_threads
from sidetune_core.training.by_products import ByProducts
from sidetune_core.training.callbacks import Callback, Callbacks
from sidetune_core.training.context import Context
from sidetune_core.training.continuation import Continuation, check_acceptable, find_latest, planned
from sidetune_core.training.execution import Execution
from sidetune_core.training.extended_job import Plan, assemble_extended
from sidetune_core.training.job import Job, assemble, describe, make_cache, open_stream
from sidetune_core.training.loop import learn
from sidetune_core.training.memo import Memo
from sidetune_core.training.recorder import Recorder, RunRecorder, tensorboard
from sidetune_core.training.within_task import check_val
from sidetune_core.training.workers.count import Count, check_workers, parse_workers, wanted_threads
from sidetune_core.training.workers.side_by_side import side_by_side

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

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
        """R on its split: the test split, unless the run was to measure another."""
        return read_results(self.folder)

    def __repr__(self) -> str:
        """The folder and the results, in a line."""
        return f"<Run {self.folder.path}: {self.results!r}>"

    def _repr_html_(self) -> str:
        """Composition, metrics and R, for notebooks."""
        from sidetune_core.results.html_report import html_summary
        from sidetune_core.results.summary import summarise

        return html_summary(summarise(self.folder))

    def to_pandas(self, per: Literal["matrix", "task"] = "matrix") -> pandas.DataFrame:
        """See `Results.to_pandas`."""
        return self.results.to_pandas(per)

    def plot(self) -> Figure:
        """R as a heat map with the titles of the tasks, a matplotlib plot.

        Raises:
            SidetuneError: matplotlib is not installed.
        """
        from sidetune_core.results.figures import heat_map

        return heat_map(self.results, [task.title for task in self.tasks])

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None = None) -> Tensor:
        """The prediction for inputs (B, *shape) by name, in float32 on the CPU.

        Args:
            inputs: a batch. For a task that acts in environments they are observations, which are
                standardised as in training; `Inputs`, as `RolloutTask.prepare` returns them, are passed on.
            task_id: the task that they belong to; None where it is not known (see `Learner.predict`).

        Raises:
            FitError: the learner needs to know the task.
            SidetuneError: the run has no such task.
        """
        task = next((task for task in self.tasks if task.id == task_id), None)
        if task is None and task_id is not None:
            known = ", ".join(task.id for task in self.tasks)
            raise SidetuneError(f"no task '{task_id}' in this run; it has {known}")
        if isinstance(inputs, Inputs):
            prepared = inputs
        elif isinstance(source := task.handler if isinstance(task, CardTask) else task, TakesObservations):
            prepared = source.network_inputs(inputs)
        else:
            prepared = Inputs(dict(inputs))
        try:
            return make_predict(self.learner, task, self.machine)(prepared).cpu()
        except KeyError as error:
            if task_id is not None or error.args != (None,):
                raise
            known = ", ".join(task.id for task in self.tasks)
            name = type(self.learner).__name__
            raise FitError(f"learner {name} needs the task of the examples: pass one of {known}") from error


def run(
    spec: RunSpec | ResolvedRun | None = None,
    out: Path | str | None = None,
    quiet: bool = True,
    save_every: str = SAVE_EVERY,
    keep: Keep = "all",
    *,
    workers: int | str = 1,
    measure: Measured = "test",
    first_tasks: int | None = None,
    callbacks: Sequence[Callback] = (),
    base: Any = None,
    side: Any = None,
    merger: Any = None,
    learner: Any = None,
    env: Any = None,
    tasks: Sequence[Task] | None = None,
    train: Mapping[str, Any] | None = None,
    cache: Mapping[str, Any] | None = None,
    device: Mapping[str, Any] | None = None,
    seed: int | None = None,
    scenario: str | None = None,
) -> Run:
    """Run a spec into a new folder. Under `torchrun` all processes run it together, and the first one writes.

    Args:
        spec: names and options, or what they were resolved to; None to give them one by one, as follows.
        out: the folder, which must be empty or absent; None for a new one in ``runs/``.
        quiet: show no progress.
        save_every: how often the state within a task is saved: steps (``200``), seconds (``30s``), or
            ``none``.
        keep: whether earlier checkpoints keep tensors that later tasks change: ``all`` of them, or only the
            ``last`` content of each tensor, with which only the newest checkpoint can be read.
        workers: number of processes that train tasks side by side, each with its part of the processors, or
            ``ray`` for those of a Ray cluster. The learner's tasks have to be independent.
        measure: the split of R; with 'val', to select options, no other split is evaluated.
        first_tasks: how many tasks of the env to train, from the first on; None for all.
        callbacks: are called with what is logged and evaluated; they change nothing (see `Callback`).
        base: as in `RunSpec`: a name, a table with a name and options, or a network (an ``nn.Module``).
        side: as in `RunSpec`.
        merger: as in `RunSpec`.
        learner: as in `RunSpec`.
        env: as in `RunSpec`.
        tasks: in place of `env`, such as those of `Task.from_dataset`.
        train: options of training.
        cache: options of the feature cache.
        device: device and precision.
        seed: of all random numbers; None for 0.
        scenario: ``task``, ``domain`` or ``class`` (see `sidetune_core.scenarios`); None for ``task``.

    Raises:
        SidetuneError: with what to do next; the folder keeps what was finished before.
        Interrupted: SIGINT or SIGTERM came; the state is in the folder.
    """
    path = Path(out).expanduser() if out is not None else None
    save_interval = interval(save_every)
    check_keep(keep)
    count, selection = parse_workers(workers), Selection(measure, first_tasks)
    components = {"base": base, "side": side, "merger": merger, "learner": learner, "env": env}
    if not isinstance(spec, ResolvedRun):
        spec = make_spec(
            spec, components, tasks, {"train": train, "cache": cache, "device": device}, seed, scenario
        )
    with join_process_group() as group:
        if group.is_main:
            run_folder.check_free(path)
        resolved = spec if isinstance(spec, ResolvedRun) else resolve(spec)
        with _use_threads(resolved, group, count) as threads, closing(open_stream(resolved)) as stream:
            job = assemble(resolved, stream, group, quiet, selection)
            _check_tasks(job, path)
            check_workers(job, count)
            name = "-".join(
                resolved.components[slot].plugin.name.split(":")[-1] for slot in ("env", "learner")
            )
            folder = group.broadcast_from_main(lambda: run_folder.create(path, name))
            with locked(folder.path) if group.is_main else nullcontext():
                if group.is_main:
                    about = describe(job, _git_state()) | {"save_every": save_every, "keep": keep}
                    about |= {"workers": count} if count != 1 else {}
                    folder.write_json("run.json", about)
                    job.notes.extend(about.get("spec_changes", ()))
                how = Execution(save_interval, keep, threads, count, callbacks)
                return _train(job, folder, how)


def resume(
    path: Path | str,
    quiet: bool = True,
    save_every: str | None = None,
    allow_changed_plugins: bool = False,
    allow_changed: Sequence[str] = (),
    trust_local_code: Trust = False,
    *,
    workers: int | str | None = None,
    base: nn.Module | None = None,
    tasks: Sequence[Task] | None = None,
    allow_changed_data: bool = False,
    env: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Resume a run from its latest checkpoint, to the same bytes as without the interruption. A finished run
    ends at once.

    The run continues with the number of threads that it had, if this computer has as many processors and
    neither ``OMP_NUM_THREADS`` nor ``--device.threads`` is set; at the end, the process has its own number
    again.

    Args:
        path: the run folder.
        quiet: show no progress.
        save_every: see `run`; None for the interval that the run was begun with.
        allow_changed_plugins: the same as ``allow_changed=["plugins"]``.
        allow_changed: resume although the spec in ``run.json`` ('spec'), the data ('data') or the source of a
            plugin ('plugins') is not that of the latest checkpoint; ``run.json`` then records from which step
            on.
        trust_local_code: import code that ``run.json`` and the data name.
        workers: see `run`; None for those that the run was begun with.
        base: the network that the run was given, with the same weights; None for a run with a base by name.
        tasks: those that the run was given, in order; None for a run with an env by name.
        allow_changed_data: the same as ``allow_changed=["data"]``.
        env: where the data are now: paths by option of the env, as in ``env={"root": "/data/photos"}``. Their
            content has to be that of the run.
        callbacks: see `run`.

    Raises:
        UntrustedCode: ``run.json`` or the data names code, without `trust_local_code`.
        SidetuneError: the folder holds no run, another process works in it, its components cannot be built,
            or spec, data or the source of a plugin have changed.
        Interrupted: SIGINT or SIGTERM came; the state is in the folder.
    """
    allowed = [*allow_changed, *(["plugins"] * allow_changed_plugins), *(["data"] * allow_changed_data)]
    check_acceptable(allowed)
    with join_process_group() as group:
        folder, about = group.broadcast_from_main(lambda: open_resumable(Path(path).expanduser()))
        save_interval = recorded_interval(folder, about) if save_every is None else interval(save_every)
        count = parse_workers(about.get("workers", 1) if workers is None else workers)
        selection = read_selection(about, str(folder.path / "run.json"))
        objects, extended = as_objects(base, tasks), bool(read_extensions(about))
        if extended:  # its tasks are those of several envs
            resolved = read_resolved(folder, trust_local_code, attrs.evolve(objects, tasks=None), True)
        else:
            resolved = read_resolved(folder, trust_local_code, objects, True)
            require_tasks(resolved, f"sidetune_core.resume({str(path)!r}")
        require_network(resolved, f"sidetune_core.resume({str(path)!r}")
        if env:
            resolved = with_moved_data(resolved, env)
        with locked(folder.path) if group.is_main else nullcontext():
            if group.is_main:
                folder.separate_hard_links()
            latest = group.broadcast_from_main(lambda: find_latest(folder))
            group.broadcast_from_main(lambda: check_rows(folder, latest.done))
            continuation = Continuation(folder, about, latest, allowed, trust_local_code)
            owner = resolved.components["env"].owner
            group.broadcast_from_main(continuation.check_statements)
            plan = _read_plan(folder, about, resolved, latest.done, trust_local_code, objects.tasks)
            now = planned(resolved, plan.records() if plan else ())
            group.broadcast_from_main(lambda: continuation.check(now, owner))
            kept = continuation.threads(group.size)
            wanted = wanted_threads(count, resolved.device.threads, kept)
            with use_threads(wanted, kept, group.size) as threads, ExitStack() as streams:

                def make_job(with_data: bool) -> Job:
                    if plan is None:
                        stream = streams.enter_context(closing(open_stream(resolved)))
                        job = assemble(resolved, stream, group, quiet, selection)
                    else:
                        job = assemble_extended(plan, group, quiet, streams, with_data=with_data)
                    group.broadcast_from_main(lambda: continuation.check_data(job, owner))
                    return job

                job = make_job(False)
                check_workers(job, count, latest.done)
                if group.is_main:
                    note_continuation(job, folder, continuation, owner)
                how = Execution(save_interval, recorded_keep(about), threads, count, callbacks)
                if plan is None:
                    return _train(job, folder, how)
                return train_extended(job, make_job, folder, how)


def _read_plan(
    folder: RunFolder,
    about: Mapping[str, Any],
    resolved: ResolvedRun,
    done: int,
    trust: Trust,
    tasks: Sequence[Task] | None,
) -> Plan | None:
    """What is known of a run that was extended; None if it was not."""
    extensions = read_extensions(about)
    if not extensions:
        return None
    return Plan(folder, read_parts(folder, resolved, trust, tasks), extensions, done, trust)


def note_continuation(job: Job, folder: RunFolder, continuation: Continuation, env: str) -> None:
    """Record what a run continues with, and report what has changed and what could not be compared."""
    job.notes.extend(continuation.record(job, env))
    for line in continuation.not_compared(job.identity, env):
        job.progress.info(line)
        with suppress(WriteError):  # `_status` reports it
            folder.log(line)


def train_extended(job: Job, make_job: Callable[[bool], Job], folder: RunFolder, how: Execution) -> Run:
    """Train a run that was extended; once more from its latest checkpoint if the learner turns out to need
    the data of earlier tasks.

    Args:
        job: of the run.
        make_job: makes it from scratch, with the data of all tasks or without.
        folder: of the run.
        how: it is computed and saved.
    """
    try:
        return _train(job, folder, how)
    except DataNeeded as error:
        if all(task.id in job.origins for task in job.tasks):
            raise
        job.progress.info(f"{error}: reading it")
    return _train(make_job(True), folder, how)


def recorded_keep(about: Mapping[str, Any]) -> Keep:
    """What earlier checkpoints keep, as the run was begun."""
    return KEEP_LAST if about.get("keep") == KEEP_LAST else "all"


def _use_threads(
    resolved: ResolvedRun, group: ProcessGroup, workers: Count
) -> AbstractContextManager[Threads]:
    """The threads of a new run; those of the run whose spec it has, if it has its conditions too."""
    wanted, spec = wanted_threads(workers, resolved.device.threads), resolved.requested
    recorded = spec.conditions if spec is not None else None
    if spec is None or recorded is None or recorded.processes != group.size or not recorded.threads:
        return use_threads(wanted, processes=group.size)
    return use_threads(wanted, recorded.threads, group.size, spec.thread_changes)


def check_keep(keep: str) -> None:
    """Check what earlier checkpoints are to keep.

    Raises:
        OptionError: it is neither 'all' nor 'last'.
    """
    if keep not in get_args(Keep):
        raise OptionError(f"--keep takes {' or '.join(get_args(Keep))}, not {keep!r}")


def _check_tasks(job: Job, path: Path | None) -> None:
    owner = job.resolved.components["env"].owner
    if not job.tasks:
        raise RunError(f"{owner} has no tasks")
    same_case = run_folder.ignores_case(path if path is not None else run_folder.RUNS)
    check_names(job.tasks, owner, same_case)
    if len({task.higher_is_better for task in job.tasks}) > 1:
        raise RunError(f"{owner} mixes metrics where higher is better and where lower is; R cannot hold both")
    config = job.resolved.components["env"].cls.Config
    has_fraction = any(field.name == "val_fraction" for field in attrs.fields(config))
    check_val(job.tasks, job.resolved.train, has_fraction)


def check_names(tasks: Sequence[Task], owner: str, same_case: bool) -> None:
    """Check the ids and splits of an env's tasks.

    Args:
        tasks: of the env.
        owner: the env, for messages.
        same_case: see `run_folder.ignores_case`.

    Raises:
        PluginError: a name is no file name, or two are the same.
        RunError: a task has no split 'test'.
    """
    run_folder.check_file_names([task.id for task in tasks], f"{owner} gives a task", same_case)
    for task in tasks:
        if isinstance(task.splits, str) or "test" not in task.splits:
            raise RunError(
                f"{owner}: task '{task.id}' has splits {task.splits!r}; it needs a tuple of names with "
                "'test', on which R is measured"
            )
        run_folder.check_file_names(task.splits, f"{owner} gives a split of task '{task.id}'", same_case)


def open_resumable(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """A run that can be resumed, and its ``run.json``."""
    folder = run_folder.open_run(path)
    folder.check_own()
    checkpoint.check_version(folder.checkpoints)
    about = folder.read_json("run.json")
    if missing := _missing(about):
        raise RunError(f"{folder.path / 'run.json'} is damaged: it has no {missing}. Restore it from a copy")
    return folder, about


def _missing(about: Mapping[str, Any]) -> str:
    """What ``run.json`` lacks of what a run needs to be resumed and reported; empty if it has everything."""
    tasks, metric = about.get("tasks"), about.get("metric")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        return "list of tasks"
    if not all(isinstance(task.get("id"), str) for task in tasks):
        return "id of each task"
    if not all(isinstance(name, str) for name in (metric, *(task.get("metric", metric) for task in tasks))):
        return "metric of each task"
    if not isinstance(about.get("higher_is_better"), bool):
        return "direction of the metric (higher_is_better)"
    return "" if isinstance(about.get("composition"), str) else "composition"


def recorded_interval(folder: RunFolder, about: Mapping[str, Any]) -> Interval:
    """How often the run saves its state, as it was begun."""
    recorded = about.get("save_every", SAVE_EVERY)
    try:
        return interval(recorded if isinstance(recorded, str) else repr(recorded))
    except OptionError as error:
        raise RunError(
            f"{folder.path / 'run.json'} is damaged: its save_every is {recorded!r}. Give --save-every"
        ) from error


def _train(job: Job, folder: RunFolder, how: Execution) -> Run:
    """Train from the latest checkpoint of the folder, or from the start, to the end."""
    clock = Clock(folder, job.machine.peak_memory, EnergyMeter())
    cache = job.resolved.cache
    by_products = ByProducts(lambda text: _warn(job, folder, f"warning: {text}"))
    with (
        _status(job, folder, clock, by_products, how.threads),
        in_use(cache_path(cache.dir)) if cache.mode == "disk" else nullcontext(),
        handle_signals(job.progress.notice) as stop,
        _recorder(job, folder, clock, by_products, how) as recorder,
        side_by_side(job, how.workers) as team,
    ):
        for line in (
            str(job.resolved),
            *(job.fit.lines(job.task_cost) if job.fit is not None else ()),
            *_object_lines(job),
        ):
            job.progress.info(line)
        where = f"{team}, {job.where}" if team is not None else job.where
        text = f"{counted(len(job.tasks), 'task')} on {where}, {how.threads} → {folder.path}"
        job.progress.info(text)
        split = job.selection.measure
        if chosen := str(job.selection):
            job.progress.info(f"{chosen}; no other split is evaluated" if split != "test" else chosen)
        for note in job.notes if job.group.is_main else ():
            _warn(job, folder, note)
        context = Context(
            options=job.resolved.train,
            seed=job.resolved.seed,
            machine=job.machine,
            group=job.group,
            cache=make_cache(job, team.shared_features if team is not None else None),
            stop=stop,
            save_every=how.save_every,
            threads=how.threads if job.machine.device.type == "cpu" else Threads(how.threads.number),
            selection=job.selection,
        )
        _write_cards(job, folder, by_products)
        _write_data(job, folder, by_products)
        make_memo = job.extended_memo or (lambda folder: Memo(folder, job.identity, split=split))
        learn(job.learner, job.tasks, context, recorder, make_memo(folder), team)
        recorder.draw_results()
        recorder.report_missing()
    return Run(folder, job.learner, job.tasks, job.machine, job.group.is_main)


def _object_lines(job: Job) -> list[str]:
    """What the run has of Python's objects, and what was found in them."""
    summaries = [
        f"{job.resolved.components['base'].owner}: {module.summary()}"
        for module in job.learner.modules()
        if isinstance(module, Base) and isinstance(module, HasSummary)
    ]
    return [line for line in (*summaries[:1], unwritten(job.resolved)) if line]


def _write_cards(job: Job, folder: RunFolder, by_products: ByProducts) -> None:
    path = folder.path / CARDS
    if not job.group.is_main:
        return
    try:
        cards = [
            make_card(task, origin.resolved, origin.data)
            for task in job.tasks
            if (origin := job.origins.get(task.id)) is not None
        ]
    except ValueError as error:
        by_products.leave_out(path, error)
        return
    with by_products.optional(path):
        trained = max(folder.boundaries, default=0)
        write_cards(folder, cards, [task.id for task in job.tasks[:trained]])


def _write_data(job: Job, folder: RunFolder, by_products: ByProducts) -> None:
    """Add to ``data.json`` what the run reads now, unless all tasks are trained."""
    if job.group.is_main and max(folder.boundaries, default=0) < len(job.tasks):
        with by_products.optional(folder.path / DATA):
            add_data(folder, job.data)


def _write_report(folder: RunFolder, by_products: ByProducts) -> None:
    path = folder.path / "report.md"
    with by_products.optional(path), writing(path):
        try:
            write_text(path, run_report(summarise(folder)))
        except RunError as error:
            by_products.leave_out(path, error)


def _warn(job: Job, folder: RunFolder, text: str) -> None:
    """Print a line, even when quiet, and log it."""
    job.progress.warning(text)
    with suppress(WriteError):  # `_status` reports it
        folder.log(text)


@contextmanager
def _recorder(
    job: Job, folder: RunFolder, clock: Clock, by_products: ByProducts, how: Execution
) -> Iterator[Recorder]:
    """The recorder of this process."""
    if not job.group.is_main:
        yield Recorder(folder)
        return
    with tensorboard(folder) as board:
        callbacks = Callbacks(folder.path, how.callbacks, lambda text: _warn(job, folder, f"warning: {text}"))
        yield RunRecorder(folder, job.progress, clock, board, job.identity, by_products, how.keep, callbacks)


@contextmanager
def _status(
    job: Job, folder: RunFolder, clock: Clock, by_products: ByProducts, threads: Threads
) -> Iterator[None]:
    """Keep ``status`` and ``log.txt`` of the folder while the run is under way, and write ``report.md`` at
    its end.

    Raises:
        Interrupted: in place of `KeyboardInterrupt`.
        WriteError: with the command that resumes the run.
    """

    log = folder.path / LOG

    def end(status: str) -> None:
        if job.group.is_main:
            with by_products.optional(folder.path / SECONDS):
                clock.note()
            folder.set_status(status)
            with by_products.optional(log):
                folder.log(f"{status} after {clock.elapsed:.1f} s")

    if job.group.is_main:
        folder.set_status("running")
        with by_products.optional(log):
            folder.log(f"started: {job.resolved} on {job.where}, {threads}")
    try:
        yield
        end(outcome(folder) if job.group.is_main else DONE)
        if job.group.is_main:
            _write_report(folder, by_products)
    except KeyboardInterrupt as interrupt:
        end("interrupted")
        number = interrupt.number if isinstance(interrupt, StopRequested) else signal.SIGINT
        needs_trust = job.resolved.needs_trust
        raise Interrupted(folder.path, number, job.group.is_main, needs_trust) from interrupt
    except Diverged as error:
        end(f"{DIVERGED}: {error.reason.splitlines()[0]}")
        raise
    except WriteError as error:
        with suppress(WriteError):
            end(f"failed: {error}")
        try:
            latest = checkpoint.find(folder.checkpoints, job.progress.warning)
            kept = f"Its state {latest} is saved" if latest else "Nothing of it was saved yet"
        except RunError as unreadable:
            kept = f"What was saved before stays ({unreadable})"
        command = resume_command(folder.path, job.resolved.needs_trust)
        raise WriteError(
            f"{error}. {kept}; when the folder is writable again, resume with: {command}"
        ) from error
    except RolloutError as error:
        end(f"failed: {error}")
        raise _with_advice(error, job, folder) from error
    except BaseException as error:
        end(f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        raise


def _with_advice(error: RolloutError, job: Job, folder: RunFolder) -> RolloutError:
    """The error with the command that resumes the run, if anything of it was saved."""
    try:
        latest = checkpoint.find(folder.checkpoints, job.progress.warning)
    except RunError:
        return error
    if latest is None or (not latest.done and latest.mid_task is not None and latest.mid_task.step == 0):
        return error
    command = resume_command(folder.path, job.resolved.needs_trust)
    return RolloutError(f"{error}. Fix the environment, and resume {latest} with: {command}")


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
        records = (f":(exclude,top)ledger/{folder}" for folder in ("recorded", "searches"))
        status = git("status", "--porcelain", "--", ":/", *records)  # records are made one after another
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(status)}
    except (OSError, subprocess.SubprocessError):
        return None
