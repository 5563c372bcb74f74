"""Earlier tasks of an extended run: which of them need no evaluation, since nothing that they read has
changed.

Their cells of R are carried over from the last row. The certificate's records say what a task reads, and
``eval.jsonl`` marks the cells (``unchanged_since``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from sidetune_core import hashing
from sidetune_core.assembly.build import restart_task, start_phase, start_task
from sidetune_core.assembly.cards import CardTask
from sidetune_core.certificate import probes
from sidetune_core.certificate.measured import read_columns
from sidetune_core.certificate.probes import ProbeRecorder, Replay, Stored
from sidetune_core.certificate.record import TaskRecord, is_constant, read_certificate, tensors_unchanged
from sidetune_core.config.history import stated
from sidetune_core.config.identity import Identity, condition_changes
from sidetune_core.config.plugin_record import read_segments
from sidetune_core.errors import RunError, WeightsError, shorten
from sidetune_core.interfaces.capabilities import set_task_state, task_state
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.interfaces.training import members
from sidetune_core.storage.evaluations import UNCHANGED_SINCE
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.device import Machine, processor
from sidetune_core.training.context import Context


@attrs.frozen(eq=False)
class Carried:
    """The evaluation of a task that is not repeated."""

    since: int
    """The row of R that it was measured in."""
    metrics: Mapping[str, Mapping[str, float]]
    """By split."""
    replay: Replay
    """Of the task's probes, which showed that its outputs have not changed."""


class Earlier:
    """The tasks before an extension: none, in a run that is not extended."""

    count = 0
    """Number of these tasks."""

    def carried(
        self, learner: Learner, seen: Sequence[Task], recorders: Mapping[str, ProbeRecorder], context: Context
    ) -> Mapping[str, Carried]:
        """The evaluations of earlier tasks that are still valid, by id.

        Args:
            learner: after a stage, frozen and in eval mode.
            seen: the tasks trained so far.
            recorders: the learner's output for each of them, by id.
            context: of the run.
        """
        return {}

    def with_data(self, tasks: Sequence[Task], carried: Mapping[str, Carried]) -> Sequence[Task]:
        """The tasks, with data for those that have to be evaluated.

        Raises:
            SidetuneError: the data of a task is gone or has changed.
        """
        return tasks


class EarlierTasks(Earlier):
    """The tasks that a run had before the extension that is under way.

    Args:
        folder: of the run.
        ids: of these tasks.
        identity: of the run now.
        read: returns tasks with their data, by id; it gets the ids and the reason.
    """

    def __init__(
        self,
        folder: RunFolder,
        ids: Sequence[str],
        identity: Identity,
        read: Callable[[Sequence[str], str], Mapping[str, Task]],
    ) -> None:
        self.count, self._ids = len(ids), tuple(ids)
        self._folder, self._identity, self._read = folder, identity, read
        self._reasons: Mapping[str, str] = {}

    def carried(
        self, learner: Learner, seen: Sequence[Task], recorders: Mapping[str, ProbeRecorder], context: Context
    ) -> Mapping[str, Carried]:
        def find() -> tuple[Mapping[str, Carried], Mapping[str, str]]:
            before = [task.id for task in seen[:-1]]  # a stage of an extension has one task
            records, reasons = unusable(self._folder, self._ids, before, self._identity)
            now = hashing.digests(dict(probes.named_tensors(learner)))
            rounding = probes.ROUNDING[context.machine.arithmetic]
            found = dict[str, Carried]()
            for id, record in records.items():
                result = _replay(record, learner, recorders[id], now, self._folder, rounding)
                if isinstance(result, str):
                    reasons[id] = result
                else:
                    found[id] = _last_cells(self._folder, id, len(before) - 1, result)
            return found, reasons

        found, self._reasons = context.group.broadcast_from_main(find)
        return found

    def with_data(self, tasks: Sequence[Task], carried: Mapping[str, Carried]) -> Sequence[Task]:
        bare = [task for task in tasks if isinstance(task, CardTask) and task.id not in carried]
        if not bare:
            return tasks
        given = self._read([task.id for task in bare], self._reasons.get(bare[0].id, ""))
        for task in bare:
            set_task_state(given[task.id], task_state(task))
        return [given.get(task.id, task) for task in tasks]


def unusable(
    folder: RunFolder, ids: Sequence[str], trained: Sequence[str], identity: Identity
) -> tuple[dict[str, TaskRecord], dict[str, str]]:
    """The certificate's records of tasks whose evaluation in the last row can be carried over unless a later
    task changes what they read, and for each other task the reason why it cannot, by id.

    Args:
        folder: of the run.
        ids: of the tasks.
        trained: ids of the tasks trained so far; R has a row for each.
        identity: of the run now.
    """
    last = len(trained) - 1
    try:
        certificate = read_certificate(folder)
    except RunError:
        certificate = None
    if certificate is None:
        return {}, dict.fromkeys(ids, "the run has no certificate of what they read")
    conditions = _other_conditions(folder.read_json("run.json"), identity, last, certificate.processor)
    if conditions:
        return {}, dict.fromkeys(ids, f"rounding may differ: {', '.join(conditions)}")
    columns = read_columns(folder, trained)
    records, reasons = dict[str, TaskRecord](), dict[str, str]()
    for id in ids:
        record = next((one for one in certificate.tasks if one.id == id), None)
        if record is None:
            reasons[id] = f"the certificate has no record of {id}"
        elif reason := _not_reproducible(record, columns[id][record.after - 1 :]):
            reasons[id] = reason
        elif not _is_whole(folder, id, last):
            reasons[id] = f"the last evaluation of {id} has gaps"
        else:
            records[id] = record
    return records, reasons


def changes_to_come(
    learner: Learner,
    earlier: Sequence[Task],
    added: Sequence[Task],
    records: Mapping[str, TaskRecord],
    seed: int,
    machine: Machine,
) -> dict[str, str]:
    """For earlier tasks, by id, the reason why training the added ones will change what they read.

    It starts all tasks in a copy of the learner: what training will change beyond that is not known before.

    Args:
        learner: before its first task.
        earlier: the tasks of the run.
        added: those that are to be trained.
        records: of the certificate, by id of an earlier task.
        seed: of the run.
        machine: the device.

    Raises:
        DataNeeded: the learner needs the data of an earlier task.
    """
    trial = copy.deepcopy(learner)
    for task in earlier:
        restart_task(trial, task, seed, machine)
    reasons = dict[str, str]()
    for task in added:
        trainable = [*start_task(trial, task, seed, machine)]
        for phase in trial.phases(task)[1:]:
            trainable += start_phase(trial, task, phase, seed) or ()
        names = _names(trial, {id(tensor) for item in members(trainable) for tensor in _tensors(item)})
        for record in records.values():
            if trained := sorted(names & record.tensors.keys()):
                reasons.setdefault(record.id, f"training {task.id} changes {shorten(trained)}")
    return reasons


def _not_reproducible(record: TaskRecord, measured: Sequence[float | None]) -> str:
    """Why an evaluation would not have the same result once more, as far as the certificate says; empty if
    it would."""
    if record.probes.cause:
        return record.probes.cause
    if not tensors_unchanged(record) or not record.probes.same:
        return f"later tasks have changed what {record.id} reads"
    if not record.probes.finite or not is_constant(measured):
        return f"the results of {record.id} in R differ although nothing that it reads changed, or have gaps"
    return ""


def _other_conditions(
    about: Mapping[str, Any], identity: Identity, last: int, former_processor: str
) -> list[str]:
    """How what decides on rounding differs from that of the last row."""
    facts = stated(about, last + 1)
    segment = read_segments({**about, **facts, "segments": []})[0]
    found = condition_changes(segment, identity)
    present = processor()
    if former_processor != present:
        found.append(f"processor {former_processor or 'unknown'} → {present}")
    return found


def _replay(
    record: TaskRecord,
    learner: Learner,
    recorder: ProbeRecorder,
    now: Mapping[str, str],
    folder: RunFolder,
    rounding: float,
) -> Replay | str:
    """The replay of a task's probes, or how what the task reads, or its outputs for them, have changed since
    it was trained."""
    if changed := sorted(name for name, digest in record.tensors.items() if now.get(name) != digest):
        return f"training changed {shorten(changed)}"
    path = folder.path / record.probes.file
    try:
        if hashing.file_digest(path) != record.probes.sha256:
            return f"the probes {path} have changed"
        stored = Stored.read(path)
    except (OSError, WeightsError) as error:
        return f"the probes of {record.id} cannot be read: {error}"
    replayed = probes.replay(learner, recorder.predict, stored.as_inputs(), rounding, record.id)
    if replayed.cause:
        return replayed.cause
    if replayed.read != record.tensors.keys():
        return f"{record.id} reads other tensors: {shorten(sorted(replayed.read ^ record.tensors.keys()))}"
    if not probes.same(stored.output, replayed.output):
        return f"the outputs of {record.id} have changed"
    return replayed


def _cells(folder: RunFolder, id: str, row: int) -> list[dict[str, Any]]:
    return [line for line in folder.lines("eval.jsonl") if line["after"] == row and line["task"] == id]


def _is_whole(folder: RunFolder, id: str, row: int) -> bool:
    cells = _cells(folder, id, row)
    return bool(cells) and not any(None in line["figures"].values() for line in cells)


def _last_cells(folder: RunFolder, id: str, row: int, replay: Replay) -> Carried:
    cells = _cells(folder, id, row)
    metrics = {line["split"]: line["figures"] for line in cells}
    return Carried(cells[0].get(UNCHANGED_SINCE, row), metrics, replay)


def _tensors(item: nn.Module | nn.Parameter) -> list[Any]:
    return [*item.parameters(), *item.buffers()] if isinstance(item, nn.Module) else [item]


def _names(learner: Learner, ids: set[int]) -> set[str]:
    return {name for name, tensor in probes.named_tensors(learner) if id(tensor) in ids}
