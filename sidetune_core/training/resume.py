"""A run continued from its folder: read, compared with what it was, trained to the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import attrs
from torch import nn

from sidetune_core.assembly.cards import DataNeeded
from sidetune_core.assembly.objects import require_network, require_tasks
from sidetune_core.assembly.parts import read_parts
from sidetune_core.assembly.restore import read_resolved
from sidetune_core.config.data_paths import with_moved_data
from sidetune_core.config.extensions import read_extensions
from sidetune_core.config.given import as_objects
from sidetune_core.config.interval import interval
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.config.selection import read_selection
from sidetune_core.config.spec import Trust
from sidetune_core.distributed.process_group import join_process_group
from sidetune_core.errors import WriteError
from sidetune_core.interfaces.tasks import Task
from sidetune_core.results.summary import check_rows
from sidetune_core.storage.lock import locked
from sidetune_core.storage.own_files import separate_hard_links
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.threads import use_threads
from sidetune_core.training.callbacks import Callback
from sidetune_core.training.continuation import Continuation, check_acceptable, find_latest, planned
from sidetune_core.training.execution import Execution
from sidetune_core.training.extended_job import Plan, assemble_extended
from sidetune_core.training.finished_run import Run
from sidetune_core.training.job import Job, assemble, open_stream
from sidetune_core.training.resumable import open_resumable, recorded_interval, recorded_keep
from sidetune_core.training.train import train_job
from sidetune_core.training.workers.count import check_workers, parse_workers, wanted_threads


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
                separate_hard_links(folder)
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
                    return train_job(job, folder, how)
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
        with suppress(WriteError):  # `keep_status` reports it
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
        return train_job(job, folder, how)
    except DataNeeded as error:
        if all(task.id in job.origins for task in job.tasks):
            raise
        job.progress.info(f"{error}: reading it")
    return train_job(make_job(True), folder, how)
