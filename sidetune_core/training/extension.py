"""Adding tasks to a finished run: nothing that its tasks have is trained, and they are evaluated once more
only where something that they read changes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import attrs
from torch import nn

from sidetune_core.assembly.objects import give_objects, require_network, require_tasks
from sidetune_core.assembly.parts import Part, read_parts, with_id
from sidetune_core.assembly.restore import read_resolved
from sidetune_core.config.choice import Choice, choice
from sidetune_core.config.extensions import Extension, extension_lines, new_ids, read_extensions, with_env
from sidetune_core.config.given import NONE, Objects, as_objects, listed_tasks
from sidetune_core.config.history import EXTENSIONS, resume_call
from sidetune_core.config.identity import Identity, as_plain
from sidetune_core.config.interval import interval
from sidetune_core.config.plugin_record import make_record
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.config.selection import read_selection
from sidetune_core.config.spec import Trust
from sidetune_core.config.spec_file import recorded_spec
from sidetune_core.distributed.process_group import ProcessGroup, join_process_group
from sidetune_core.errors import FitError, OptionError, RunError, WriteError, suggest
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.results.summary import check_rows
from sidetune_core.storage import checkpoint
from sidetune_core.storage.atomic import writing
from sidetune_core.storage.data_file import drop_data
from sidetune_core.storage.file_names import check_file_names, ignores_case
from sidetune_core.storage.lock import locked
from sidetune_core.storage.new_run import check_free
from sidetune_core.storage.own_files import separate_hard_links
from sidetune_core.storage.run_files import CARDS, DOCUMENTS
from sidetune_core.storage.run_folder import RunFolder, open_run, resume_command
from sidetune_core.storage.status import has_diverged, has_ended
from sidetune_core.system.threads import use_threads
from sidetune_core.training.callbacks import Callback
from sidetune_core.training.continuation import Continuation, Latest, check_acceptable, find_latest, planned
from sidetune_core.training.earlier_data import earlier_changes
from sidetune_core.training.execution import Execution
from sidetune_core.training.extended_job import Plan, assemble_extended, check_inputs
from sidetune_core.training.finished_run import Run
from sidetune_core.training.job import Job, common_metric, open_stream
from sidetune_core.training.resumable import open_resumable, recorded_interval, recorded_keep
from sidetune_core.training.resume import note_continuation, train_extended
from sidetune_core.training.task_checks import check_names

NOT_COPIED = ("lock", "lock.json")
"""Files of a run folder that are no part of the run."""


def extend(
    run: Path | str | Run,
    env: Choice | str | Mapping[str, Any] | Sequence[Task] | None = None,
    train: Mapping[str, Any] | None = None,
    tasks: Sequence[str] | Sequence[Task] = (),
    *,
    base: nn.Module | None = None,
    earlier_tasks: Sequence[Task] | None = None,
    cache: Mapping[str, Any] | None = None,
    device: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    quiet: bool = True,
    save_every: str | None = None,
    allow_changed: Sequence[str] = (),
    trust_local_code: Trust = False,
    allow_changed_data: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Add tasks of an env to a finished run, and train on them.

    Base, side, merger, learner and seed are those of the run, and so are all options that are not given here.
    The tasks of the run are neither trained nor evaluated where nothing that they read changes; their values
    are carried over to the new rows of R, and marked there.

    Args:
        run: the run, or its folder.
        env: name and options of the env, as in a `RunSpec`; options that are not given have their defaults.
            None where `tasks` are given.
        train: options of training that are not those of the run.
        tasks: ids of the env's tasks to add, in this order; all if empty.
            Tasks themselves, such as those of `Task.from_dataset`, need no env.
        base: the network that the run was given, with the same weights; None for a run with a base by name.
        earlier_tasks: those that the run was given, in order, for a learner after which earlier tasks have to
            be evaluated once more.
        cache: options of the feature cache that are not those of the run.
        device: device and precision, if not those of the run.
        out: copy the run to this folder, and extend the copy; None to extend the run itself.
        quiet: show no progress.
        save_every: see `run`; None for the interval of the run.
        allow_changed: see `resume`.
        trust_local_code: see `resume`.
        allow_changed_data: the same as ``allow_changed=["data"]``.
        callbacks: see `run`.

    Raises:
        UntrustedCode: ``run.json`` or the data names code, without `trust_local_code`.
        FitError: the tasks of the env do not fit those of the run.
        RunError: the run is not finished, is in use, or earlier tasks have to be evaluated once more and
            their data is gone.
        SidetuneError: with what to do next; the run stays as it was, or can be resumed.
        Interrupted: SIGINT or SIGTERM came; the state is in the folder, and `resume` continues the extension.
    """
    path = run.folder.path if isinstance(run, Run) else Path(run)
    names, chosen = _chosen_env(env, tasks)
    objects = as_objects(base, earlier_tasks)
    about = open_run(path).read_json("run.json")
    spec = recorded_spec(about, str(path / "run.json"), trust_local_code)
    tables = {"train": train or {}, "cache": cache or {}, "device": device or {}}
    resolved = resolve(with_env(spec, chosen, tables))
    resolved = give_objects(resolved, about, Objects(objects.base), same_weights=True)
    allowed = [*allow_changed, *(["data"] * allow_changed_data)]
    return extend_resolved(
        path, resolved, names, out, quiet, save_every, allowed, trust_local_code, objects, callbacks
    )


def _chosen_env(env: Any, tasks: Sequence[str] | Sequence[Task]) -> tuple[Sequence[str], Choice]:
    """The env of an extension, and the ids of its tasks to add; none for all.

    Raises:
        OptionError: there is no env, or tasks are given next to one.
    """
    given = listed_tasks(tasks)
    if given is not None and env is not None:
        raise OptionError(
            "extend() got env= and tasks that are objects: the tasks are the env, leave out env="
        )
    chosen = choice(env if given is None else given, "env")
    if chosen is None:
        raise OptionError(
            "an extension needs an env whose tasks are added, or tasks: extend(RUN, tasks=[task])"
        )
    names = tuple(task for task in tasks if isinstance(task, str))
    if given is None and len(names) < len(tasks):
        raise OptionError("tasks= has ids of the env's tasks, or tasks themselves, and not both")
    return names, chosen


def extend_resolved(
    path: Path,
    resolved: ResolvedRun,
    tasks: Sequence[str] = (),
    out: Path | str | None = None,
    quiet: bool = True,
    save_every: str | None = None,
    allow_changed: Sequence[str] = (),
    trust_local_code: Trust = False,
    objects: Objects = NONE,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """`extend` for the run with the env and options of the extension already resolved; `objects` are those
    that Python gave to the run."""
    check_acceptable(allow_changed)
    require_network(resolved, f"sidetune_core.extend({str(path)!r}, tasks=[...]")
    require_tasks(resolved, f"sidetune_core.extend({str(path)!r}")
    if save_every is not None:
        interval(save_every)
    target = Path(out) if out is not None else None
    with join_process_group() as group, ExitStack() as streams:
        if group.is_main and target is not None:
            check_free(target)
        source = group.broadcast_from_main(lambda: _open_finished(path, in_place=target is None))
        if target is None and group.is_main:
            streams.enter_context(locked(source.path))
            separate_hard_links(source)
        stream = streams.enter_context(closing(open_stream(resolved)))
        added = _plan(group, source, resolved, stream, tasks, save_every, trust_local_code, objects)
        continuation = added.continuation(source, allow_changed, "the same command with")
        now = planned(added.plan.parts[0].resolved, added.plan.records())
        group.broadcast_from_main(continuation.check_statements)
        group.broadcast_from_main(lambda: continuation.check(now, added.env))
        kept = continuation.threads(group.size)
        with use_threads(resolved.device.threads, kept, group.size) as threads:

            def assemble(with_data: bool) -> Job:
                read = None if with_data else added.tasks
                job = assemble_extended(added.plan, group, quiet, streams, stream, read, with_data)
                group.broadcast_from_main(lambda: continuation.check_data(job, added.env))
                return job

            job, folder = assemble(False), source
            if target is not None:
                folder = RunFolder(group.broadcast_from_main(lambda: _copy(source, target)))
                if group.is_main:
                    streams.enter_context(locked(folder.path))
            if group.is_main:
                _begin(folder, added, job, added.continuation(folder, allow_changed))
            every, keep = recorded_interval(folder, added.about), recorded_keep(added.about)
            return train_extended(job, assemble, folder, Execution(every, keep, threads, callbacks=callbacks))


@attrs.frozen(eq=False)
class _Added:
    """Tasks that are to be added to a run."""

    plan: Plan
    about: Mapping[str, Any]
    """``run.json`` with them."""
    tasks: Sequence[Task]
    latest: Latest
    dropped: Sequence[str]
    """Ids of tasks of a former extension that failed, which this one replaces."""
    notes: Sequence[str] = ()
    """What has changed in the data of earlier tasks, in lines; empty in all but the main process."""

    @property
    def env(self) -> str:
        """The first env of the run, for messages."""
        return self.plan.parts[0].env

    def continuation(
        self, folder: RunFolder, allowed: Sequence[str], command: str | None = None
    ) -> Continuation:
        """What the run is compared with; see `Continuation`."""
        trust = self.plan.trust_local_code
        return Continuation(folder, self.about, self.latest, allowed, trust, command)


def _plan(
    group: ProcessGroup,
    source: RunFolder,
    resolved: ResolvedRun,
    stream: TaskStream,
    names: Sequence[str],
    save_every: str | None,
    trust: Trust,
    objects: Objects,
) -> _Added:
    """Check that the run is finished and can be extended, and choose the tasks. Writes nothing."""
    about, dropped = group.broadcast_from_main(lambda: _without_failed(source, source.read_json("run.json")))
    latest = group.broadcast_from_main(lambda: _check_finished(source, about, bool(dropped)))
    first = read_resolved(source, trust, attrs.evolve(objects, tasks=None), same_weights=True)
    parts = read_parts(source, first, trust, objects.tasks)
    parts = parts[:-1] if dropped else parts
    _check_learner(parts[0].resolved, resolved)
    check_inputs(source, parts[0], stream, resolved.components["env"].owner)
    with group.main_process_first():
        available = stream.tasks()
    notes = earlier_changes(source, parts, resolved, stream, available) if group.is_main else []
    extension, tasks = _choose_tasks(source, about, resolved, stream, available, names)
    about = _extended(about, extension, tasks, save_every)
    part = Part(resolved, extension.tasks, extension.data)
    plan = Plan(source, [*parts, part], read_extensions(about), latest.done, trust)
    return _Added(plan, about, tasks, latest, dropped, notes)


def _begin(folder: RunFolder, added: _Added, job: Job, continuation: Continuation) -> None:
    """Record the extension in the run folder: from here on, `resume` continues it."""
    folder.set_status("running")  # a run that is killed before the next line has nothing left to do
    _clear(folder, added.dropped, len(added.plan.parts) - 1)
    folder.write_json("run.json", added.about)
    note_continuation(job, folder, continuation, added.env)
    job.notes.extend(added.notes)
    line = extension_lines(added.about)[-1]
    job.progress.info(line)
    with suppress(WriteError):  # reported when the run begins
        folder.log(line)


def _open_finished(path: Path, in_place: bool) -> RunFolder:
    if in_place:
        folder, about = open_resumable(path)
    else:
        folder = open_run(path)
        about = folder.read_json("run.json")
    if chosen := str(read_selection(about, str(path / "run.json"))):
        raise RunError(
            f"{path} is a run to select options ({chosen}), which takes no further tasks; extend a run "
            "without --measure and --first-tasks"
        )
    return folder


def _without_failed(folder: RunFolder, about: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """``run.json`` without an extension that failed or diverged before one of its tasks was trained, and the
    ids of its tasks: such an extension is replaced by the next one."""
    extensions, status = read_extensions(about), folder.status
    failed = has_diverged(status) or status.startswith("failed: ")
    if not extensions or not failed or find_latest(folder).done != extensions[-1].first:
        return about, []
    first = extensions[-1].first
    ids = [str(task["id"]) for task in about["tasks"][first:]]
    tasks = about["tasks"][:first]
    kept = {
        **about,
        "tasks": tasks,
        "metric": common_metric([task.get("metric", about["metric"]) for task in tasks]),
        EXTENSIONS: about[EXTENSIONS][:-1],
        "segments": [one for one in about.get("segments", []) if one.get("task") not in ids],
    }
    return {key: value for key, value in kept.items() if value or key not in (EXTENSIONS, "segments")}, ids


def _clear(folder: RunFolder, dropped: Sequence[str], extension: int) -> None:
    """Delete what an extension that is replaced has left, by its number and the ids of its tasks."""
    if not dropped:
        return
    checkpoint.delete_mid_task(folder.checkpoints)
    with suppress(WriteError):  # a by-product
        drop_data(folder, extension)
    for id in dropped:
        with writing(folder.path / CARDS):
            (folder.path / CARDS / f"{id}.json").unlink(missing_ok=True)
        for path in folder.path.glob(f"{DOCUMENTS}/{id}-*"):
            folder.delete_documents(path.name)


def _check_finished(folder: RunFolder, about: Mapping[str, Any], after_failure: bool) -> Latest:
    """The latest checkpoint of a finished run.

    Raises:
        RunError: the run is not finished.
    """
    latest, count = find_latest(folder), len(about["tasks"])
    if after_failure:
        latest = attrs.evolve(latest, step=0, identity=_identity_after(folder, count))
    elif latest.done < count or latest.step or not has_ended(folder.status):
        raise RunError(
            f"the run {folder.path} is not finished ({latest.done} of {count} tasks are trained, status "
            f"{folder.status}); finish it first: "
            f"{resume_call(folder.path, about) or resume_command(folder.path)}"
        )
    check_rows(folder, count)
    return latest


def _identity_after(folder: RunFolder, count: int) -> Identity | None:
    """The identity in the checkpoint after some tasks."""
    return checkpoint.recorded_identity(checkpoint.boundary(folder.checkpoints, count))


def _check_learner(first: ResolvedRun, resolved: ResolvedRun) -> None:
    """Check that a run can be extended, and is extended with its own components.

    Raises:
        OptionError: another component, option or seed was chosen.
        RunError: its learner trains all tasks at once.
    """
    learner = first.components["learner"]
    if learner.cls.joint:
        raise RunError(
            f"{learner.owner} trains all tasks at once, so none can be added later: start a new run on all "
            "of them"
        )
    before, now = first.to_spec(), resolved.to_spec()
    changed = [
        slot
        for slot in ("base", "side", "merger", "learner")
        if before.component(slot) != now.component(slot)
    ]
    if changed or before.seed != now.seed:
        raise OptionError(
            f"an extension has the {', '.join(changed) or 'seed'} of the run: only env, train, cache and "
            "device can be chosen"
        )


def _choose_tasks(
    folder: RunFolder,
    about: Mapping[str, Any],
    resolved: ResolvedRun,
    stream: TaskStream,
    tasks: Sequence[Task],
    names: Sequence[str],
) -> tuple[Extension, list[Task]]:
    """The tasks to add, and the record of the extension.

    Raises:
        OptionError: the env has no task of a name.
        RunError: there is none to add.
        FitError: they do not fit the run.
    """
    owner = resolved.components["env"].owner
    available = {task.id: task for task in tasks}
    if unknown := [name for name in names if name not in available]:
        raise OptionError(
            f"{owner} has no task '{unknown[0]}'.{suggest(unknown[0], available)} Tasks: "
            f"{', '.join(f'{task.id} ({task.title})' for task in available.values())}"
        )
    chosen = [available[name] for name in dict.fromkeys(names)] if names else list(available.values())
    if not chosen:
        raise RunError(f"{owner} has no tasks, so there is none to add")
    directions = {bool(about["higher_is_better"]), *(task.higher_is_better for task in chosen)}
    if len(directions) > 1:
        better = "higher" if about["higher_is_better"] else "lower"
        raise FitError(
            f"in the run {better} is better, and in {owner} it is not (metric {chosen[0].metric}); R cannot "
            "hold both"
        )
    taken = [str(task["id"]) for task in about["tasks"]]
    same_case = ignores_case(folder.path)
    ids = new_ids(taken, [task.id for task in chosen], same_case)
    check_names(chosen, owner, same_case)
    check_file_names(list(ids.values()), f"{owner} is to give a task", same_case)
    spec = as_plain(resolved.to_spec().to_json())
    extension = Extension(
        first=len(taken),
        tasks={new: of for of, new in ids.items()},
        data=stream.data_fingerprint(),
        plugin=make_record("env", resolved.components["env"].plugin),
        **{key: spec[key] for key in ("env", "train", "cache", "device")},
    )
    return extension, [with_id(task, ids[task.id]) for task in chosen]


def _extended(
    about: Mapping[str, Any], extension: Extension, added: Sequence[Task], save_every: str | None
) -> dict[str, Any]:
    """``run.json`` with an extension."""
    known = [{"metric": about["metric"], **task} for task in about["tasks"]]
    new = [{"id": task.id, "title": task.title, "metric": task.metric} for task in added]
    return {
        **about,
        "tasks": [*about["tasks"], *new],
        "metric": common_metric([task["metric"] for task in (*known, *new)]),
        EXTENSIONS: [*about.get(EXTENSIONS, []), extension.to_json()],
        **({"save_every": save_every} if save_every is not None else {}),
    }


def _copy(source: RunFolder, target: Path) -> Path:
    """Copy a run to a folder that appears when the copy is complete.

    Raises:
        WriteError: the folder cannot be written.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            with locked(source.path) if os.access(source.path, os.W_OK) else nullcontext():
                copied = shutil.copytree(
                    source.path, unfinished / "run", ignore=shutil.ignore_patterns(*NOT_COPIED)
                )
            for path in (copied, *copied.rglob("*")):
                path.chmod(path.stat().st_mode | (0o700 if path.is_dir() else 0o600))
            check_free(target)
            if target.is_dir():
                shutil.rmtree(target)
            copied.replace(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target
