"""What a run trains that was extended: the tasks of the last extension, after those before it.

Earlier tasks are restored from their cards, without their data. It is read only where they have to be
evaluated once more, or where the learner needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import attrs

from sidetune_core.assembly.build import build_learner
from sidetune_core.assembly.cards import CardTask, DataNeeded, read_cards
from sidetune_core.assembly.data import record_data
from sidetune_core.assembly.fit import fit_components
from sidetune_core.assembly.parts import ChainedStream, Part, card_tasks, read_tasks
from sidetune_core.assembly.scenario_evaluation import check_classes
from sidetune_core.config.data_record import DataRecord, data_change, find
from sidetune_core.config.extensions import Extension
from sidetune_core.config.history import in_identity
from sidetune_core.config.identity import Identity
from sidetune_core.config.plugin_record import read_segments
from sidetune_core.config.spec import Trust
from sidetune_core.distributed.process_group import ProcessGroup
from sidetune_core.errors import FitError, RunError, SidetuneError, shorten
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.storage.data_file import read_data
from sidetune_core.storage.run_folder import RunFolder, resume_command
from sidetune_core.system import device
from sidetune_core.system.device import Machine
from sidetune_core.system.progress import Progress
from sidetune_core.training.job import Job, Origin, make_identity, open_stream
from sidetune_core.training.memo import Memo
from sidetune_core.training.unchanged import changes_to_come, depends_on_all_tasks, unusable


@attrs.frozen
class Plan:
    """What is known of an extended run before its tasks are built."""

    folder: RunFolder
    """Of the run as it was extended; a copy of it may be trained."""
    parts: Sequence[Part]
    """All parts of the run, the extension that is under way last."""
    extensions: Sequence[Extension]
    done: int
    """Number of tasks that are trained."""
    trust_local_code: Trust = False

    @property
    def ids(self) -> list[str]:
        """Of all tasks of the run."""
        return [id for part in self.parts for id in part.tasks]

    @property
    def first(self) -> int:
        """Number of tasks before the last extension."""
        return self.extensions[-1].first

    def records(self, data: Mapping[int, str] | None = None) -> list[dict[str, Any]]:
        """The extensions as the identity of the run has them now; `data` has fingerprints by number of the
        part."""
        present = [
            attrs.evolve(
                extension,
                plugin=part.record,
                data=(data or {}).get(number, extension.data),
            )
            for number, (extension, part) in enumerate(zip(self.extensions, self.parts[1:], strict=True), 1)
        ]
        return in_identity([extension.to_json() for extension in present])


def assemble_extended(
    plan: Plan,
    group: ProcessGroup,
    quiet: bool,
    streams: ExitStack,
    stream: TaskStream | None = None,
    added: Sequence[Task] | None = None,
    with_data: bool = False,
) -> Job:
    """Build the learner and the tasks of an extended run.

    Args:
        plan: of the run.
        group: the processes.
        quiet: show no progress.
        streams: closes the envs that are opened.
        stream: the env of the last extension, if it is open.
        added: its tasks, if they are read.
        with_data: read the data of all earlier tasks.

    Raises:
        RunError: earlier tasks have to be evaluated once more, and their data is gone or has changed.
        SidetuneError: the components cannot be built.
    """
    progress = Progress(quiet=quiet or not group.is_main)
    last = plan.parts[-1]
    stream = stream if stream is not None else streams.enter_context(closing(open_stream(last.resolved)))
    stream.info = progress.info
    earlier = _EarlierParts(plan, group, streams, progress)
    for number in range(len(plan.parts) - 1):
        if with_data:
            earlier.read(number, "The learner needs the data of earlier tasks")
        else:
            earlier.restore(number)
    with group.main_process_first():
        added = read_tasks(last, stream) if added is None else added
        tasks = [*earlier.tasks(), *added]
        check_classes(tasks, last.resolved.scenario)
        chained = ChainedStream(stream, tasks, tasks[0].inputs)
        fit = fit_components(last.resolved, chained)
        learner = build_learner(fit.resolved, chained, fit=fit)
    machine = _choose_machine(plan, group)
    fingerprints = {len(plan.parts) - 1: stream.data_fingerprint()}
    identity = make_identity(plan.parts[0].resolved, tasks, plan.parts[0].data, machine, group)
    identity = attrs.evolve(identity, extensions=plan.records(fingerprints))
    if plan.done < len(plan.ids) and not with_data:
        trained = len(plan.ids) - len(added)
        reasons = _reasons(plan, learner, tasks[:trained], added, identity, group)
        for number, reason in earlier.affected(reasons).items():
            earlier.read(number, reason)
    tasks = [*earlier.tasks(), *added]
    fingerprints |= earlier.data
    identity = attrs.evolve(
        identity,
        data=fingerprints.get(0, identity.data),
        tasks=[{"id": task.id, "title": task.title, "metric": task.metric} for task in tasks],
        extensions=plan.records(fingerprints),
    )
    opened = {**earlier.streams, len(plan.parts) - 1: stream}
    return Job(
        last.resolved,
        learner,
        tasks,
        machine,
        group,
        progress,
        _cache_key(plan, opened),
        identity,
        shared_ids=len(opened) == 1 and stream.shared_ids,
        side_taps=fit.side_taps,
        origins={
            id: Origin(plan.parts[number].resolved, fingerprints[number])
            for number in opened
            for id in plan.parts[number].tasks
        },
        data=[*earlier.records(), _record(last, len(plan.parts) - 1, stream, added)] if group.is_main else [],
        extended_memo=lambda folder: Memo(folder, identity, plan.first, earlier.read_ids),
    )


def check_inputs(folder: RunFolder, first: Part, stream: TaskStream, env: str) -> None:
    """Check that the tasks of an env have the inputs of a run's; no data is read.

    Args:
        folder: of the run.
        first: its first part.
        stream: the env whose tasks are to be added.
        env: its title.

    Raises:
        FitError: the inputs have other names or shapes.
    """
    try:
        inputs = next(iter(read_cards(folder, list(first.tasks)[:1]).values())).inputs
    except RunError:
        with closing(open_stream(first.resolved)) as own:
            inputs = own.inputs
    present, new = _shapes(inputs), _shapes(stream.inputs)
    if present != new:
        raise FitError(
            f"the run has inputs {_shown(present)} and {env} {_shown(new)}: choose options of the env that "
            "give the same, or start a new run"
        )


class _EarlierParts:
    """The parts of a run before its last extension: their tasks, with or without data."""

    def __init__(self, plan: Plan, group: ProcessGroup, streams: ExitStack, progress: Progress) -> None:
        self._plan, self._group, self._streams, self._progress = plan, group, streams, progress
        self._tasks: dict[int, list[Task]] = {}
        self.streams: dict[int, TaskStream] = {}
        """Those that are open, by number of the part."""
        self.data: dict[int, str] = {}
        """Their fingerprints."""

    def tasks(self) -> list[Task]:
        """All tasks, in order."""
        return [task for number in sorted(self._tasks) for task in self._tasks[number]]

    def restore(self, number: int) -> None:
        """The tasks of a part without their data, where their cards suffice."""
        part = self._plan.parts[number]
        try:
            tasks = card_tasks(self._plan.folder, part)
        except RunError as error:
            self.read(number, f"The cards of earlier tasks cannot be used ({error})")
            return
        if all(isinstance(task, CardTask) and task.has_head for task in tasks):
            self._tasks[number] = tasks
        else:
            self.read(number, f"The heads of {shorten(list(part.tasks))} are made from their data")

    def records(self) -> list[DataRecord]:
        """Of the parts whose data were read."""
        return [
            _record(self._plan.parts[number], number, stream, self._tasks[number])
            for number, stream in sorted(self.streams.items())
        ]

    def affected(self, reasons: Mapping[str, str]) -> dict[int, str]:
        """The parts without data that have a task of `reasons`, each with its first reason."""
        found = dict[int, str]()
        for number, tasks in self._tasks.items():
            named = [task.id for task in tasks if task.id in reasons]
            if named and number not in self.streams:
                found[number] = (
                    f"{shorten(named)} must be evaluated once more after training the added tasks, since "
                    f"{reasons[named[0]]}"
                )
        return found

    def read(self, number: int, reason: str) -> list[Task]:
        """The tasks of a part with their data.

        Raises:
            RunError: it is gone, or is not what they were trained on.
        """
        if number in self.streams:
            return self._tasks[number]
        part = self._plan.parts[number]
        self._progress.info(f"{reason}: reading the data of {part.env}")
        try:
            with self._group.main_process_first():
                stream = self._streams.enter_context(closing(open_stream(part.resolved)))
                stream.info = self._progress.info
                self._tasks[number] = read_tasks(part, stream)
                self.data[number] = stream.data_fingerprint()
        except SidetuneError as error:
            raise RunError(f"{reason}, and the data of {part.env} cannot be read: {error}") from error
        self.streams[number] = stream
        return self._tasks[number]

    def read_ids(self, ids: Sequence[str], reason: str) -> dict[str, Task]:
        """Tasks with their data, by id, which were not expected to be evaluated once more.

        Raises:
            RunError: the data is gone, or is not what they were trained on.
        """
        message = f"{shorten(list(ids))} must be evaluated once more, since {reason}"
        tasks = dict[str, Task]()
        for number, part in enumerate(self._plan.parts[:-1]):
            if not part.tasks.keys() & set(ids):
                continue
            tasks |= {task.id: task for task in self.read(number, message)}
            if part.data and self.data[number] and part.data != self.data[number]:
                command = resume_command(self._plan.folder.path, bool(self._plan.trust_local_code))
                before = find(read_data(self._plan.folder), number, part.data)
                now = _record(part, number, self.streams[number], self._tasks[number])
                change = data_change(part.env, before, now)
                what = f" ({change.shown})" if change.parts else ""
                raise RunError(
                    f"{message}, and the data of {part.env} is not what they were trained on{what}. "
                    f"Restore it, then resume: {command}"
                )
        return tasks


def _record(part: Part, number: int, stream: TaskStream, tasks: Sequence[Task]) -> DataRecord:
    return record_data(stream, tasks, part.tasks, number, part.env)


def _choose_machine(plan: Plan, group: ProcessGroup) -> Machine:
    """The device of the last extension, with the precisions of the run."""
    machine = read_segments(plan.folder.read_json("run.json"))[-1].machine
    return device.choose(plan.parts[-1].resolved.device, group.local, device.recorded_precisions(machine))


def _reasons(
    plan: Plan,
    learner: Learner,
    earlier: Sequence[Task],
    added: Sequence[Task],
    identity: Identity,
    group: ProcessGroup,
) -> Mapping[str, str]:
    """Why earlier tasks will have to be evaluated once more, by id."""
    ids = [task.id for task in earlier]
    if reason := depends_on_all_tasks(plan.parts[-1].resolved.scenario):
        return dict.fromkeys(ids, reason)
    records, reasons = group.broadcast_from_main(
        lambda: unusable(plan.folder, ids, plan.ids[: plan.done], identity)
    )
    resolved = plan.parts[-1].resolved
    machine = _choose_machine(plan, group)
    try:
        to_come = changes_to_come(learner, earlier, added, records, resolved.seed, machine)
    except DataNeeded:
        return dict.fromkeys(ids, "the learner needs their data")
    return {**to_come, **reasons}


def _cache_key(plan: Plan, streams: Mapping[int, TaskStream]) -> str:
    """The key of cached features: equal only where ids mean the same inputs, so ids that were changed are
    part of it; empty if a fingerprint is unknown."""
    keys = []
    for number in sorted(streams):
        key, part = streams[number].fingerprint(), plan.parts[number]
        if not key:
            return ""
        renamed = part.renames and not streams[number].shared_ids
        keys.append(f"{key} {part.tasks}" if renamed else key)
    return "+".join(keys)


def _shapes(inputs: InputShapes) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in inputs.items()}


def _shown(inputs: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in inputs.items())
