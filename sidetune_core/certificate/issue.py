"""Issuing a run's certificate after each stage: hashes of dependencies, and replays of probes.

The dependencies of a task are the tensors that are read while its probes are computed. Learners need no code
for this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

import attrs
from torch import Tensor

from sidetune_core import hashing
from sidetune_core.certificate import accounts, probes
from sidetune_core.certificate.carried import statement
from sidetune_core.certificate.conditions import history
from sidetune_core.certificate.measured import read_columns
from sidetune_core.certificate.probes import ProbeRecorder, Replay, Stored
from sidetune_core.certificate.record import (
    ALL_TENSORS,
    BATCH,
    CONDITIONS,
    LAST,
    OUTSIDE,
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
    tensors_unchanged,
    write_certificate,
)
from sidetune_core.config.identity import Identity
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage import checkpoint
from sidetune_core.storage.chain import Chain
from sidetune_core.storage.run_folder import PROBES, RunFolder
from sidetune_core.supervised.task import SupervisedTask
from sidetune_core.system.device import processor


def certify(
    learner: Learner,
    stage: Sequence[Task],
    recorders: Mapping[str, ProbeRecorder],
    folder: RunFolder,
    chain: Chain,
    precision: str = "fp32",
    identity: Identity | None = None,
    replays: Mapping[str, Replay] | None = None,
    outside: Collection[str] = (),
) -> Certificate:
    """Rewrite ``certificate.json`` after a stage of training, and write the probes of its tasks.

    To be called before the stage's checkpoint is written, and after its evaluations are: a run killed in
    between leaves records of tasks without a checkpoint, and the next call ignores them.

    Args:
        learner: after the stage, frozen and in eval mode.
        stage: the tasks that were trained together.
        recorders: the learner's outputs for each task so far, by task id; the tasks of `stage` have just been
            evaluated through theirs.
        folder: of the run; its ``eval.jsonl`` has R so far.
        chain: the run's checkpoints, up to that before the stage.
        precision: of the learner's outputs, a key of `probes.ROUNDING`.
        identity: of the run now; compared with those of its checkpoints.
        replays: of the probes of earlier tasks, by id, with the learner as it is; others are replayed here.
        outside: ids of tasks that had other values when they were evaluated once more, although nothing that
            they read had changed.
    """
    trained = list(recorders)
    done = trained[: len(trained) - len(stage)]
    known, before = _known(folder, done, chain)
    tensors = dict(probes.named_tensors(learner))
    now = hashing.digests(tensors)
    changed = sorted(name for name, digest in before.items() if now.get(name) != digest)
    stages = [*known.stages, Stage([task.id for task in stage], changed)]
    rounding = probes.ROUNDING[precision]
    columns = read_columns(folder, trained)
    past = {
        count: checkpoint.recorded_identity(checkpoint.boundary(folder.checkpoints, count), chain)
        for count in dict.fromkeys(record.after for record in known.tasks)
    }
    count = len(trained)
    conditions = history(known.tasks, past | {count: identity}, {count: processor()})
    records = []
    for record in known.tasks:
        stored = Stored.read(folder.path / record.probes.file)
        replayed = (replays or {}).get(record.id) or probes.replay(
            learner, recorders[record.id].predict, stored.as_inputs(), rounding, record.id
        )
        if record.id in outside and not replayed.cause:
            replayed = attrs.evolve(replayed, cause=OUTSIDE)
        measured = columns[record.id][record.after - 1 :]
        earlier = partial(_tensors_at, folder, record.after, chain)
        state = State(tensors, now, stages, conditions.rounding(record.after, rounding))
        record = attrs.evolve(record, conditions=conditions.changes(record.after))
        records.append(compare(record, stored, replayed, measured, state, earlier))
    for task in stage:
        first = _first(learner, task, recorders[task.id], now, folder, len(trained), rounding)
        records.append(attrs.evolve(first, measured=columns[task.id][first.after - 1 :]))
    files = dict(_file_digests(folder, trained))
    certificate = Certificate(
        statement(folder), overall(trained, records), trained, records, stages, now, files, processor()
    )
    write_certificate(folder, certificate)
    return certificate


@attrs.frozen(eq=False)
class State:
    """A learner after the last stage."""

    tensors: Mapping[str, Tensor]
    """Its parameters and buffers."""
    digests: Mapping[str, str]
    """Of `tensors`."""
    stages: Sequence[Stage]
    """All stages so far, with the tensors that each changed."""
    rounding: float
    """The largest relative difference of outputs that is rounding, where batches or conditions differ."""


def compare(
    record: TaskRecord,
    stored: Stored,
    replayed: Replay,
    measured: Sequence[float | None],
    state: State,
    earlier: Callable[[Sequence[str]], Mapping[str, Tensor]],
    rule: Callable[[TaskRecord, bool], str] = judge,
) -> TaskRecord:
    """The updated record of an earlier task.

    Args:
        record: the record so far, with the conditions that have changed.
        stored: the task's probes, and the outputs for them right after it was trained.
        replayed: the learner's outputs for them now, and the tensors it reads.
        measured: the task's column of R, from the row after its stage on.
        state: the learner's tensors now.
        earlier: reads tensors by name as they were after the task was trained, to measure changes against;
            some may be missing.
        rule: gives the verdict.
    """
    changed = [name for name, digest in record.tensors.items() if state.digests.get(name) != digest]
    same = probes.same(stored.output, replayed.output)
    own = next(index for index, stage in enumerate(state.stages) if record.id in stage.tasks)
    later = state.stages[own + 1 :]
    updated = attrs.evolve(
        record,
        changed=_measure(changed, state.tensors, earlier),
        newly_read=sorted(replayed.read - record.tensors.keys()),
        no_longer_read=sorted(record.tensors.keys() - replayed.read),
        measured=list(measured),
    )
    cause = replayed.cause or _cause_of_first(stored, state.rounding)
    if not (cause or same) and tensors_unchanged(updated):
        rounded = record.conditions and probes.agree(stored.output, replayed.output, state.rounding)
        cause = CONDITIONS if rounded else OUTSIDE
    examined = attrs.evolve(
        record.probes,
        examples=len(stored.output),
        same=same,
        change=probes.change(stored.output, replayed.output),
        finite=probes.finite(stored.output) and probes.finite(replayed.output),
        cause=cause,
    )
    updated = attrs.evolve(updated, probes=examined)
    verdict = rule(updated, bool(later))
    scope = ""
    if verdict == ZERO:
        scope = TENSORS_READ if any(stage.changed for stage in later) else ALL_TENSORS
    return attrs.evolve(updated, verdict=verdict, scope=scope)


def _cause_of_first(stored: Stored, rounding: float) -> str:
    """Why the first evaluation, in its own batches, had other outputs than the probes by themselves."""
    if stored.evaluated is None or not probes.finite(stored.output):
        return ""
    if probes.agree(stored.evaluated, stored.output, rounding):
        return ""
    return BATCH


def _tensors_at(folder: RunFolder, after: int, chain: Chain, names: Sequence[str]) -> Mapping[str, Tensor]:
    return checkpoint.tensors_at(checkpoint.boundary(folder.checkpoints, after), names, chain)


def _measure(
    names: Sequence[str],
    tensors: Mapping[str, Tensor],
    earlier: Callable[[Sequence[str]], Mapping[str, Tensor]],
) -> dict[str, Change | None]:
    """How far tensors are from their earlier values; None where either is missing."""
    before = earlier(names) if names else {}
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
    rounding: float,
) -> TaskRecord:
    """The record of a task that has just been trained."""
    recorded = recorder.recorded
    replayed = probes.replay(learner, recorder.predict, recorded.as_inputs(), rounding, task.id)
    stored = Stored(recorded.inputs, replayed.output, recorded.lengths, recorded.output)
    file = f"{PROBES}/{task.id}.safetensors"
    path = folder.path / file
    stored.write(path)
    examined = Probes(
        file=file,
        sha256=hashing.file_digest(path),
        examples=len(replayed.output),
        same=True,
        change=probes.change(replayed.output, replayed.output),
        finite=probes.finite(replayed.output),
        cause=replayed.cause or _cause_of_first(stored, rounding),
    )
    return TaskRecord(
        id=task.id,
        after=trained,
        verdict=LAST,
        scope="",
        tensors={name: now[name] for name in sorted(replayed.read)},
        changed={},
        newly_read=[],
        no_longer_read=[],
        probes=examined,
        sketch=_sketch(task),
        processor=processor(),
    )


def _file_digests(folder: RunFolder, trained: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The SHA-256 of documents and visualisations of some tasks, and of the record of the data; those that
    cannot be read are left out."""
    for name, task in accounts.shown_files(folder).items():
        if not task or task in trained:
            with suppress(OSError):
                yield name, hashing.file_digest(folder.path / name)


def _sketch(task: Task) -> TaskSketch | None:
    is_plain = isinstance(task, SupervisedTask) and type(task).make_head is SupervisedTask.make_head
    if not is_plain or task.outputs.kind != "logits" or task.outputs.size is None:
        return None  # its card describes it
    inputs = {name: list(shape) for name, shape in task.inputs.items()}
    return TaskSketch(task.title, inputs, task.outputs.size)


def _known(folder: RunFolder, done: Sequence[str], chain: Chain) -> tuple[Certificate, Mapping[str, str]]:
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
    return attrs.evolve(existing, tasks=tasks, stages=stages), chain.digests
