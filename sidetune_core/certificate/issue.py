"""Certifying that nothing was forgotten, after each task: hashes of what earlier tasks depend on, and their probes once more.

What a task depends on is found by watching which tensors are read while its probes are computed. No learner does anything for it.
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
    LAST,
    STATEMENT,
    ZERO,
    Certificate,
    Change,
    Outline,
    Probes,
    Stage,
    TaskRecord,
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
    """Write ``certificate.json`` anew after some tasks have been learnt, and the probes of these. To be called before their checkpoint is
    written: a run that is cut off in between leaves a certificate of tasks without a checkpoint, and those are passed over next time.

    Args:
        learner: as it is when they have been learnt, all of it frozen and in eval mode.
        stage: the tasks.
        acts: the learner's outputs for every task so far, by task id, through which the tasks of `stage` have just been evaluated.
        folder: of the run.
    """
    learnt = list(recorders)
    done = learnt[: len(learnt) - len(stage)]
    known, before = _known(folder, done)
    tensors = dict(probes.named_tensors(learner))
    now = hashing.digests(tensors)
    stages = [
        *known.stages,
        Stage(
            [task.id for task in stage],
            sorted(name for name, digest in before.items() if now.get(name) != digest),
        ),
    ]
    records = []
    for record in known.tasks:
        stored = Stored.read(folder.path / record.probes.file)
        found = probes.replay(learner, recorders[record.id], stored.inputs, record.id)
        records.append(
            compare(
                record,
                stored,
                found,
                tensors,
                now,
                checkpoint.boundary(folder.checkpoints, record.after),
                stages,
            )
        )
    for task in stage:
        records.append(_first(learner, task, recorders[task.id], now, folder, len(learnt)))
    write_certificate(folder, Certificate(STATEMENT, overall(learnt, records), learnt, records, stages, now))


def compare(
    record: TaskRecord,
    stored: Stored,
    found: Replay,
    tensors: Mapping[str, Tensor],
    now: Mapping[str, str],
    boundary: Path,
    stages: Sequence[Stage],
) -> TaskRecord:
    """The record of an earlier task brought up to date.

    Args:
        record: as it was.
        stored: its probes, and the outputs for them when it had been learnt.
        found: what the learner does with them now.
        tensors: the learner's parameters and buffers.
        now: their digests.
        boundary: the checkpoint of when the task had been learnt, to measure how far tensors have moved since; it may be gone.
        stages: what each step of the stream changed.
    """
    gone = [name for name, digest in record.tensors.items() if now.get(name) != digest]
    anew, lost = sorted(found.read - record.tensors.keys()), sorted(record.tensors.keys() - found.read)
    same = probes.same(stored.output, found.output)
    change = probes.change(stored.output, found.output) or Change(float("inf"), float("inf"))
    own = next(place for place, stage in enumerate(stages) if record.id in stage.tasks)
    later = stages[own + 1 :]
    verdict = judge(same, bool(gone), bool(anew or lost), bool(later))
    ground = (
        ("what is read" if any(one.changed for one in later) else "everything") if verdict == ZERO else ""
    )
    return attrs.evolve(
        record,
        verdict=verdict,
        ground=ground,
        moved=_moved(gone, tensors, boundary),
        read_anew=anew,
        no_longer_read=lost,
        probes=attrs.evolve(record.probes, examples=len(stored.output), same=same, change=change),
    )


def _moved(names: Sequence[str], tensors: Mapping[str, Tensor], boundary: Path) -> dict[str, Change | None]:
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
    predict: ProbeRecorder,
    now: Mapping[str, str],
    folder: RunFolder,
    learnt: int,
) -> TaskRecord:
    """The record of a task that has just been learnt."""
    inputs = predict.inputs
    found = probes.replay(learner, predict, inputs, task.id)
    name = f"{PROBES}/{task.id}.safetensors"
    Stored(inputs, found.output).write(folder.path / name)
    return TaskRecord(
        id=task.id,
        after=learnt,
        verdict=LAST,
        ground="",
        tensors={name: now[name] for name in sorted(found.read)},
        moved={},
        read_anew=[],
        no_longer_read=[],
        probes=Probes(
            name, hashing.file_digest(folder.path / name), len(found.output), True, Change(0.0, 0.0)
        ),
        outline=_outline(task),
    )


def _outline(task: Task) -> Outline | None:
    if not isinstance(task, ClassTask) or type(task).make_head is not ClassTask.make_head:
        return None
    return Outline(task.title, {name: list(shape) for name, shape in task.inputs.items()}, task.classes)


def _known(folder: RunFolder, done: Sequence[str]) -> tuple[Certificate, Mapping[str, str]]:
    """The certificate after the tasks `done`, and the digests of all tensors then."""
    empty = Certificate(STATEMENT, overall([], []), [], [], [], {})
    if not done:
        return empty, {}
    found = read_certificate(folder)
    if found is None:
        return empty, {}
    if found.learnt == list(done):
        return found, found.now
    tasks = [record for record in found.tasks if record.id in done]
    stages = [stage for stage in found.stages if set(stage.tasks) <= set(done)]
    return attrs.evolve(found, tasks=tasks, stages=stages), hashing.digests(
        read_tensors(checkpoint.boundary(folder.checkpoints, len(done)))
    )
