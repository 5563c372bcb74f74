"""A run from its spec to a new folder: resolve, build, check, and train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from sidetune_core.config.interval import interval
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.config.selection import Measured, Selection
from sidetune_core.config.spec import RunSpec, make_spec
from sidetune_core.distributed.process_group import ProcessGroup, join_process_group
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage.compaction import Keep
from sidetune_core.storage.lock import locked
from sidetune_core.storage.new_run import check_free, create_run
from sidetune_core.system.threads import Threads, use_threads
from sidetune_core.training.callbacks import Callback
from sidetune_core.training.execution import SAVE_EVERY, Execution, check_keep
from sidetune_core.training.finished_run import Run
from sidetune_core.training.git_state import git_state
from sidetune_core.training.job import assemble, describe, open_stream
from sidetune_core.training.task_checks import check_tasks
from sidetune_core.training.train import train_job
from sidetune_core.training.workers.count import Count, check_workers, parse_workers, wanted_threads


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
            check_free(path)
        resolved = spec if isinstance(spec, ResolvedRun) else resolve(spec)
        with _use_threads(resolved, group, count) as threads, closing(open_stream(resolved)) as stream:
            job = assemble(resolved, stream, group, quiet, selection)
            check_tasks(job, path)
            check_workers(job, count)
            name = "-".join(
                resolved.components[slot].plugin.name.split(":")[-1] for slot in ("env", "learner")
            )
            folder = group.broadcast_from_main(lambda: create_run(path, name))
            with locked(folder.path) if group.is_main else nullcontext():
                if group.is_main:
                    about = describe(job, git_state()) | {"save_every": save_every, "keep": keep}
                    about |= {"workers": count} if count != 1 else {}
                    folder.write_json("run.json", about)
                    job.notes.extend(about.get("spec_changes", ()))
                how = Execution(save_interval, keep, threads, count, callbacks)
                return train_job(job, folder, how)


def _use_threads(
    resolved: ResolvedRun, group: ProcessGroup, workers: Count
) -> AbstractContextManager[Threads]:
    """The threads of a new run; those of the run whose spec it has, if it has its conditions too."""
    wanted, spec = wanted_threads(workers, resolved.device.threads), resolved.requested
    recorded = spec.conditions if spec is not None else None
    if spec is None or recorded is None or recorded.processes != group.size or not recorded.threads:
        return use_threads(wanted, processes=group.size)
    return use_threads(wanted, recorded.threads, group.size, spec.thread_changes)
