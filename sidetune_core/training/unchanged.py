"""Which earlier tasks a row of R need not measure, since nothing that their evaluation reads has changed.

The certificate's records say what a task reads, and whether its outputs are reproducible.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from sidetune_core import hashing
from sidetune_core.assembly.build import restart_task, start_phase, start_task
from sidetune_core.certificate import probes
from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.certificate.probes import Replay, Stored
from sidetune_core.certificate.record import TaskRecord
from sidetune_core.certificate.verdicts import CONDITIONS, OUTSIDE, tensors_unchanged
from sidetune_core.config.history import stated
from sidetune_core.config.identity import Identity, condition_changes
from sidetune_core.config.plugin_record import changes as plugin_changes
from sidetune_core.config.plugin_record import read_plugins, read_segments
from sidetune_core.config.selection import read_selection
from sidetune_core.errors import RunError, WeightsError, shorten
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.interfaces.training import members
from sidetune_core.scenarios import DEFAULT, Scenario, title
from sidetune_core.storage.evaluations import read_evaluations
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.device import Machine, processor

CHANGED_EARLIER = "later tasks have changed what {} reads"
"""Why a task is measured in every row, though none of what is known to be read has changed since the last: on
what changed then depends what else it reads now."""


def not_carried(record: TaskRecord | None, id: str) -> str:
    """Why a task is measured in every row, whether or not something that it reads changes; empty if it is
    not, as far as the certificate says."""
    if record is None:
        return f"the certificate has no record of {id}"
    if record.probes.cause not in ("", CONDITIONS):
        return record.probes.cause
    if not tensors_unchanged(record) or not (record.probes.same or record.probes.cause):
        return CHANGED_EARLIER.format(id)
    if not record.probes.finite:
        return f"not every output of {id} is finite"
    return ""


def depends_on_all_tasks(scenario: Scenario) -> str:
    """Why every task is measured in every row where its id is unknown at test time; empty where it is
    known."""
    if scenario == DEFAULT:
        return ""
    return f"predictions without a task id depend on all tasks ({title(scenario)} scenario)"


def irreproducible(records: Collection[TaskRecord]) -> list[str]:
    """The tasks, by id, whose outputs depend on state that no tensor holds: nothing is known of such a
    learner's other tasks either."""
    return [record.id for record in records if record.probes.cause == OUTSIDE]


def readers(records: Mapping[str, TaskRecord], names: Collection[str]) -> set[str]:
    """The tasks, by id, that read one of these tensors."""
    changed = frozenset(names)
    return {
        id
        for id, record in records.items()
        if not changed.isdisjoint(record.all_tensors) or not changed.isdisjoint(record.newly_read)
    }


def changed_since(folder: RunFolder, row: int, identity: Identity, former_processor: str) -> list[str]:
    """How what decides on the values of a row of R differs now: data, components, and what decides on
    rounding.

    Args:
        folder: of the run.
        row: of R; the newest one.
        identity: of the run now.
        former_processor: of the computer that measured the row.
    """
    about = folder.read_json("run.json")
    facts = stated(about, row + 1)
    segment = read_segments({**about, **facts, "segments": []})[0]
    found = condition_changes(segment, identity)
    if (before := facts.get("data")) and identity.data and before != identity.data:
        found.append("other data")
    found += map(str, plugin_changes(segment.plugins, read_plugins(identity.plugins, {})))
    present = processor()
    if former_processor != present:
        found.append(f"processor {former_processor or 'unknown'} → {present}")
    return found


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
    if changes := changed_since(folder, last, identity, certificate.processor):
        return {}, dict.fromkeys(ids, f"values may differ: {', '.join(changes)}")
    if outside := irreproducible(certificate.tasks):
        return {}, dict.fromkeys(ids, f"{shorten(outside)}: {OUTSIDE}")
    latest = latest_values(folder, trained)
    known = {record.id: record for record in certificate.tasks}
    records, reasons = dict[str, TaskRecord](), dict[str, str]()
    for id in ids:
        if reason := not_carried(known.get(id), id):
            reasons[id] = reason
        elif any(
            certificate.now.get(name) != digest for name, digest in known[id].read_in_evaluation.items()
        ):
            reasons[id] = CHANGED_EARLIER.format(id)
        elif not is_whole(latest.values.get(id)):
            reasons[id] = f"the last evaluation of {id} has gaps"
        elif id in latest.varying:
            reasons[id] = f"the results of {id} in R differ although nothing that it reads changed"
        else:
            records[id] = known[id]
    return records, reasons


Values = Mapping[str, Mapping[str, float | None]]
"""The metrics of a task by split and name."""


@attrs.frozen
class Latest:
    """The last row of R."""

    values: Mapping[str, Values]
    """By id of a task."""
    repeated: frozenset[str]
    """The tasks whose last two measurements since they were trained have the same values on the split of
    R."""
    varying: frozenset[str]
    """Those whose last two have others."""


def latest_values(folder: RunFolder, trained: Sequence[str]) -> Latest:
    """The last row of R.

    Args:
        folder: of the run.
        trained: ids of the tasks trained so far.
    """
    evaluations = read_evaluations(folder)
    values: dict[str, dict[str, Mapping[str, float | None]]] = {}
    for split in dict.fromkeys(str(line["split"]) for line in evaluations.lines):
        rows = evaluations.rows(trained, split, lambda line: line["figures"])
        for id, metrics in zip(trained, rows.get(len(trained) - 1, ()), strict=False):
            if metrics is not None:
                values.setdefault(id, {})[split] = metrics
    first_rows = {id: index for index, id in enumerate(trained)}
    measure = read_selection(folder.read_json("run.json")).measure
    measured: dict[str, list[Values]] = {}
    for line in evaluations.lines:
        if line["split"] == measure and line["after"] >= first_rows.get(line["task"], len(trained)):
            measured.setdefault(line["task"], []).append({measure: line["figures"]})
    pairs = {id: each[-2:] for id, each in measured.items() if len(each) > 1}
    repeated = frozenset(id for id, (one, two) in pairs.items() if bits(one) == bits(two))
    return Latest(values, repeated, frozenset(pairs.keys() - repeated))


def is_whole(values: Values | None) -> bool:
    """Whether a task was evaluated, and all values are finite."""
    return bool(values) and not any(None in metrics.values() for metrics in (values or {}).values())


def bits(values: Values) -> dict[str, dict[str, str | None]]:
    """What is equal only for values that have the same bits."""
    return {
        split: {name: None if value is None else float(value).hex() for name, value in metrics.items()}
        for split, metrics in values.items()
    }


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
            if trained := sorted(names & record.all_tensors.keys()):
                reasons.setdefault(record.id, f"training {task.id} changes {shorten(trained)}")
    return reasons


def replay_unchanged(
    record: TaskRecord,
    learner: Learner,
    predict: Predict,
    folder: RunFolder,
    rounding: float,
    names_at: Mapping[int, Sequence[str]],
) -> Replay | str:
    """The replay of a task's probes, or how what the task reads, or its outputs for them, differ from those
    right after it was trained, although no tensor that it read then has changed."""
    path = folder.path / record.probes.file
    try:
        if hashing.file_digest(path) != record.probes.sha256:
            return f"the probes {path} have changed"
        stored = Stored.read(path)
    except (OSError, WeightsError) as error:
        return f"the probes of {record.id} cannot be read: {error}"
    replayed = probes.replay(learner, predict, stored.as_inputs(), rounding, record.id, names_at=names_at)
    if replayed.cause:
        return replayed.cause
    if replayed.read != record.tensors.keys():
        return f"{record.id} reads other tensors: {shorten(sorted(replayed.read ^ record.tensors.keys()))}"
    exact = record.probes.cause != CONDITIONS
    if not (
        probes.same(stored.output, replayed.output)
        if exact
        else probes.agree(stored.output, replayed.output, rounding)
    ):
        return f"the outputs of {record.id} have changed"
    return replayed


def _tensors(item: nn.Module | nn.Parameter) -> list[Any]:
    return [*item.parameters(), *item.buffers()] if isinstance(item, nn.Module) else [item]


def _names(learner: Learner, ids: set[int]) -> set[str]:
    return {name for name, tensor in probes.named_tensors(learner) if id(tensor) in ids}
