"""Issuing a run's certificate after each stage: hashes of dependencies, and replays of probes.

The dependencies of a task are the tensors that are read while its probes are computed. Learners need no code
for this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from torch import Tensor

from sidetune_core import hashing
from sidetune_core.certificate import probes
from sidetune_core.certificate.probes import ProbeRecorder, Replay, Stored
from sidetune_core.certificate.record import (
    ALL_TENSORS,
    LAST,
    STATEMENT,
    TENSORS_READ,
    ZERO,
    Certificate,
    Change,
    Probes,
    Stage,
    TaskRecord,
    TaskSketch,
    judge,
    overall,
    read_certificate,
    write_certificate,
)
from sidetune_core.errors import WeightsError
from sidetune_core.interfaces.classification import ClassTask
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import PROBES, RunFolder
from sidetune_core.storage.weights import read_tensors


def certify(
    learner: Learner, stage: Sequence[Task], recorders: Mapping[str, ProbeRecorder], folder: RunFolder
) -> None:
    """Rewrite ``certificate.json`` after a stage of training, and write the probes of its tasks.

    To be called before the stage's checkpoint is written: a run killed in between leaves records of tasks
    without a checkpoint, and the next call ignores them.

    Args:
        learner: after the stage, frozen and in eval mode.
        stage: the tasks that were trained together.
        recorders: the learner's outputs for each task so far, by task id; the tasks of `stage` have just been
            evaluated through theirs.
        folder: of the run.
    """
    trained = list(recorders)
    done = trained[: len(trained) - len(stage)]
    known, before = _known(folder, done)
    tensors = dict(probes.named_tensors(learner))
    now = hashing.digests(tensors)
    changed = sorted(name for name, digest in before.items() if now.get(name) != digest)
    stages = [*known.stages, Stage([task.id for task in stage], changed)]
    records = []
    for record in known.tasks:
        stored = Stored.read(folder.path / record.probes.file)
        replayed = probes.replay(learner, recorders[record.id], stored.inputs, record.id)
        boundary = checkpoint.boundary(folder.checkpoints, record.after)
        records.append(compare(record, stored, replayed, tensors, now, boundary, stages))
    for task in stage:
        records.append(_first(learner, task, recorders[task.id], now, folder, len(trained)))
    write_certificate(
        folder, Certificate(STATEMENT, overall(trained, records), trained, records, stages, now)
    )


def compare(
    record: TaskRecord,
    stored: Stored,
    replayed: Replay,
    tensors: Mapping[str, Tensor],
    now: Mapping[str, str],
    boundary: Path,
    stages: Sequence[Stage],
) -> TaskRecord:
    """The updated record of an earlier task.

    Args:
        record: the record so far.
        stored: the task's probes, and the outputs for them right after it was trained.
        replayed: the learner's outputs for them now, and the tensors it reads.
        tensors: the learner's parameters and buffers.
        now: their digests.
        boundary: the checkpoint after the task was trained, to measure changes against; it may be missing.
        stages: all stages so far, with the tensors that each changed.
    """
    changed = [name for name, digest in record.tensors.items() if now.get(name) != digest]
    newly_read = sorted(replayed.read - record.tensors.keys())
    no_longer_read = sorted(record.tensors.keys() - replayed.read)
    same = probes.same(stored.output, replayed.output)
    change = probes.change(stored.output, replayed.output) or Change(float("inf"), float("inf"))
    own = next(index for index, stage in enumerate(stages) if record.id in stage.tasks)
    later = stages[own + 1 :]
    verdict = judge(same, bool(changed), bool(newly_read or no_longer_read), bool(later))
    scope = ""
    if verdict == ZERO:
        scope = TENSORS_READ if any(stage.changed for stage in later) else ALL_TENSORS
    return attrs.evolve(
        record,
        verdict=verdict,
        scope=scope,
        changed=_measure(changed, tensors, boundary),
        newly_read=newly_read,
        no_longer_read=no_longer_read,
        probes=attrs.evolve(record.probes, examples=len(stored.output), same=same, change=change),
    )


def _measure(names: Sequence[str], tensors: Mapping[str, Tensor], boundary: Path) -> dict[str, Change | None]:
    """How far tensors are from their values in a checkpoint; None where either is missing."""
    if not names:
        return {}
    try:
        before = read_tensors(boundary)
    except WeightsError:
        before = {}
    return {
        name: probes.change(before[name], tensors[name]) if name in before and name in tensors else None
        for name in names
    }


def _first(
    learner: Learner,
    task: Task,
    recorder: ProbeRecorder,
    now: Mapping[str, str],
    folder: RunFolder,
    trained: int,
) -> TaskRecord:
    """The record of a task that has just been trained."""
    inputs = recorder.inputs
    replayed = probes.replay(learner, recorder, inputs, task.id)
    file = f"{PROBES}/{task.id}.safetensors"
    path = folder.path / file
    Stored(inputs, replayed.output).write(path)
    return TaskRecord(
        id=task.id,
        after=trained,
        verdict=LAST,
        scope="",
        tensors={name: now[name] for name in sorted(replayed.read)},
        changed={},
        newly_read=[],
        no_longer_read=[],
        probes=Probes(file, hashing.file_digest(path), len(replayed.output), True, Change(0.0, 0.0)),
        sketch=_sketch(task),
    )


def _sketch(task: Task) -> TaskSketch | None:
    if not isinstance(task, ClassTask) or type(task).make_head is not ClassTask.make_head:
        return None
    return TaskSketch(task.title, {name: list(shape) for name, shape in task.inputs.items()}, task.classes)


def _known(folder: RunFolder, done: Sequence[str]) -> tuple[Certificate, Mapping[str, str]]:
    """The certificate after the tasks `done`, and the digests of all tensors at that time."""
    empty = Certificate(STATEMENT, overall([], []), [], [], [], {})
    if not done:
        return empty, {}
    existing = read_certificate(folder)
    if existing is None:
        return empty, {}
    if existing.trained == list(done):
        return existing, existing.now
    tasks = [record for record in existing.tasks if record.id in done]
    stages = [stage for stage in existing.stages if set(stage.tasks) <= set(done)]
    boundary = checkpoint.boundary(folder.checkpoints, len(done))
    return attrs.evolve(existing, tasks=tasks, stages=stages), hashing.digests(read_tensors(boundary))
