"""What a run trains, on what, and by which processes; and what is recorded about it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import torch

from sidetune_core import __version__
from sidetune_core.assembly.build import build_learner, build_stream
from sidetune_core.assembly.data import record_data
from sidetune_core.assembly.fit import Fit, fit_components
from sidetune_core.assembly.objects import describe_objects
from sidetune_core.assembly.restore import run_precisions
from sidetune_core.assembly.scenario_evaluation import check_classes
from sidetune_core.assembly.selected import selected_tasks
from sidetune_core.assembly.task_cost import TaskCost
from sidetune_core.config.data_paths import begun_here
from sidetune_core.config.data_record import DataRecord, data_change, find
from sidetune_core.config.identity import ROUNDING, Identity, as_plain, condition_changes
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.config.selection import Selection
from sidetune_core.distributed.process_group import ProcessGroup
from sidetune_core.feature_cache.cache import GIB, FeatureCache
from sidetune_core.interfaces.capabilities import HasVersions
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import taps_read, union_of_taps
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.io.cache_folders import cache_path
from sidetune_core.results.metrics import MIXED
from sidetune_core.storage.data_file import read_data
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system import device
from sidetune_core.system.device import Machine
from sidetune_core.system.progress import Progress
from sidetune_core.training.memo import Memo

COMPUTING = ("torch", "numpy", "torchvision", "timm", "transformers", "peft", "pillow")
"""Libraries that decide on results, where they are installed: of networks and of decoded images."""


@attrs.frozen(eq=False)
class Origin:
    """Where a task comes from."""

    resolved: ResolvedRun
    """The run with the env of the task."""
    data: str
    """The fingerprint of the env's data."""


@attrs.frozen(eq=False)
class Job:
    """What is trained, on what, and by which processes."""

    resolved: ResolvedRun
    learner: Learner
    tasks: Sequence[Task]
    machine: Machine
    group: ProcessGroup
    progress: Progress
    data_fingerprint: str
    """The key of cached features (see `TaskStream.fingerprint`)."""
    identity: Identity
    shared_ids: bool = False
    """See `TaskStream.shared_ids`."""
    origins: Mapping[str, Origin] = attrs.field(factory=dict)
    """Of the tasks that have their data, by id."""
    extended_memo: Callable[[RunFolder], Memo] | None = None
    """The memo of an extended run, for its folder; None for a run that is not extended."""
    fit: Fit | None = None
    """Of the components, and the number of their parameters; None for an extended run."""
    task_cost: TaskCost | None = None
    """See `Fit.task_cost`."""
    side_taps: tuple[int, ...] | None = None
    """See `Fit.side_taps`."""
    data: Sequence[DataRecord] = ()
    """Of the envs whose data were read; empty in all but the main process."""
    notes: list[str] = attrs.field(factory=list)
    """What to report about plugins and conditions, on screen and in ``log.txt``."""
    selection: Selection = Selection()
    """The tasks of the env that are trained, and the split of R."""

    @property
    def where(self) -> str:
        """The device, and how many processes if there are several."""
        return str(self.machine) if self.group.size == 1 else f"{self.group.size} processes, {self.machine}"


def open_stream(resolved: ResolvedRun) -> TaskStream:
    """The env. The run folder stays where it is, whatever current folder the env prefers."""
    with chdir("."):
        return build_stream(resolved)


def assemble(
    resolved: ResolvedRun,
    stream: TaskStream,
    group: ProcessGroup,
    quiet: bool,
    selection: Selection = Selection(),  # noqa: B008 - it is immutable
) -> Job:
    """Build the learner and read the data; the first process of each computer goes first, since it may
    download.

    Raises:
        OptionError: the env has fewer tasks than are to be trained, or one has no such split as is to be
            measured.
    """
    progress = Progress(quiet=quiet or not group.is_main)
    stream.info = progress.info
    with group.main_process_first(), chdir("."):
        fit = fit_components(resolved, stream)
        if fit.warning and group.is_main:
            progress.warning(fit.warning)
        resolved = fit.resolved
        learner, tasks = build_learner(resolved, stream, fit=fit), stream.tasks()
        check_classes(tasks, resolved.scenario)
    tasks = selected_tasks(tasks, selection, resolved)
    preferred = run_precisions(resolved) or fit.precisions
    machine = device.choose(resolved.device, group.local, preferred)
    if (note := device.narrow_note(machine, resolved.device, fit.precisions.narrow)) and group.is_main:
        progress.info(note)
    identity = make_identity(resolved, tasks, stream.data_fingerprint(), machine, group)
    return Job(
        resolved,
        learner,
        tasks,
        machine,
        group,
        progress,
        stream.fingerprint(),
        identity,
        shared_ids=stream.shared_ids,
        origins={task.id: Origin(resolved, identity.data) for task in tasks},
        fit=fit,
        task_cost=fit.task_cost(machine, tasks[0]) if tasks else None,
        side_taps=fit.side_taps,
        data=[record_data(stream, tasks, {}, 0, resolved.components["env"].owner)] if group.is_main else [],
        selection=selection,
    )


def make_cache(job: Job, shared: Path | None = None) -> FeatureCache | None:
    """The feature cache of a run, None if it has none; `shared` is a folder for features that its processes
    share, of a cache in memory."""
    options = job.resolved.cache
    if options.mode == "off":
        return None
    return FeatureCache(
        limit=round(options.limit * GIB),
        taps=union_of_taps([job.side_taps, taps_read(job.learner)]),
        info=job.progress.info,
        warning=job.progress.warning if job.group.is_main else job.progress.info,
        shared_ids=job.shared_ids,
        folder=cache_path(options.dir) if options.mode == "disk" else shared,
        data=job.data_fingerprint or ("" if shared is None or options.mode == "disk" else str(shared)),
    )


def make_identity(
    resolved: ResolvedRun, tasks: Sequence[Task], data: str, machine: Machine, group: ProcessGroup
) -> Identity:
    """The identity of a run, without extensions, that continues in this process."""
    return Identity(
        spec=as_plain(resolved.to_spec().to_json()),
        data=data,
        tasks=[{"id": task.id, "title": task.title, "metric": task.metric} for task in tasks],
        higher_is_better=all(task.higher_is_better for task in tasks),
        plugins={slot: record.to_json() for slot, record in resolved.plugin_records().items()},
        versions=_versions(tasks),
        threads=torch.get_num_threads(),
        processes=group.size,
        machine=str(machine),
    )


def _versions(tasks: Sequence[Task]) -> Mapping[str, str]:
    """Of Python, the libraries that compute, and those that define the environments of tasks."""
    versions = {"sidetune": __version__, "python": platform.python_version()}
    for name in COMPUTING:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    for task in tasks:
        if isinstance(task, HasVersions):
            versions |= task.versions()
    return versions


def common_metric(metrics: Sequence[str]) -> str:
    """The metric of all tasks, or `MIXED`."""
    return metrics[0] if len(set(metrics)) == 1 else MIXED


def describe(job: Job, git: Mapping[str, Any] | None) -> dict[str, Any]:
    """The content of ``run.json``; `git` is the state of the checkout that the code runs from."""
    identity, resolved = job.identity, job.resolved
    changes = [f"other plugin than in the spec: {change}" for change in resolved.plugin_changes()]
    if resolved.requested is not None and resolved.requested.added:
        added = ", ".join(resolved.requested.added)
        changes.append(f"the spec is that of a run to which {added} were added; they are no part of the spec")
    changes += _spec_data_changes(job)
    recorded = resolved.requested.conditions if resolved.requested is not None else None
    if recorded is not None and (found := condition_changes(recorded, identity)):
        changes.append(f"other conditions than in the spec: {', '.join(found)}; {ROUNDING}")
    return {
        "asked": (resolved.requested or resolved.to_spec()).to_json(),
        "resolved": identity.spec,
        "composition": str(resolved),
        **({"parameters": job.fit.to_json()} if job.fit is not None else {}),
        **({"task_cost": job.task_cost.to_json()} if job.task_cost is not None else {}),
        "plugins": identity.plugins,
        **({"spec_changes": changes} if changes else {}),
        **describe_objects(resolved),
        "tasks": identity.tasks,
        "data": identity.data,
        "metric": common_metric([task.metric for task in job.tasks]),
        "higher_is_better": identity.higher_is_better,
        "machine": identity.machine,
        "processes": identity.processes,
        "threads": identity.threads,
        "versions": identity.versions,
        "git": git,
        **job.selection.to_json(),
        **({"folder": folder} if (folder := begun_here(resolved.components["env"].config)) else {}),
    }


def _spec_data_changes(job: Job) -> list[str]:
    """That the data are not those of the run whose spec this is, and what has changed; empty if they are, or
    if that is unknown.

    A run with another seed may hold out other examples: its data are compared by
    `TaskStream.content_fingerprint`.
    """
    spec, env = job.resolved.requested, job.resolved.components["env"]
    recorded = spec.data if spec is not None else None
    if recorded is None or not recorded.fingerprint or not job.identity.data:
        return []
    if recorded.fingerprint == job.identity.data or recorded.env.rpartition("/")[2] != env.plugin.name:
        return []
    before = find(read_data(RunFolder(recorded.file.parent)), 0, recorded.fingerprint)
    now = find(job.data, 0, job.identity.data)
    what = "other data than the run of the spec"
    if recorded.seed == job.resolved.seed:
        change = data_change(env.owner, before, now)
        return [f"{what}: {change.shown}" if change.parts else what]
    if before is None or now is None or not before.content or not now.content:
        return []
    return [what] if before.content != now.content else []
