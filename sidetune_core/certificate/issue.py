"""Issuing a run's certificate after each stage: hashes of dependencies, and replays of probes.

The dependencies of a task are the tensors that are read while its probes are computed. Learners need no code
for this.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

import attrs
from torch import Tensor

from sidetune_core import hashing
from sidetune_core.certificate import accounts, probes
from sidetune_core.certificate.certificate_file import FILE, write_certificate
from sidetune_core.certificate.conditions import History, history
from sidetune_core.certificate.log import CertificateLog, Line, Table, bare
from sidetune_core.certificate.measured import read_columns
from sidetune_core.certificate.probes import ProbeRecorder, Replay, Stored
from sidetune_core.certificate.record import Change, Probes, Stage, TaskRecord, TaskSketch
from sidetune_core.certificate.repair import damage
from sidetune_core.certificate.verdicts import (
    ALL_TENSORS,
    BATCH,
    CONDITIONS,
    LAST,
    OUTSIDE,
    TENSORS_READ,
    ZERO,
    judge,
    tensors_unchanged,
)
from sidetune_core.config.identity import Identity, condition_changes, read_identity
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.seeding import derive_seed
from sidetune_core.storage import checkpoint
from sidetune_core.storage.chain import Chain
from sidetune_core.storage.run_files import CARDS, DATA, PROBES
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.supervised.task import SupervisedTask
from sidetune_core.system.device import processor

SAMPLE = 2
"""Earlier tasks whose probes are replayed after every stage, although nothing that they read has changed."""


class Followed(Protocol):
    """A learner of which it is known what has changed (see `training.tracked`)."""

    @property
    def learner(self) -> Learner: ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and buffers by name."""

    @property
    def named_digests(self) -> Mapping[str, str]:
        """SHA-256 of `tensors`."""

    @property
    def names_at(self) -> Mapping[int, Sequence[str]]:
        """Names of `tensors` by address of their storage."""

    def refresh(self, *, within: Collection[str] | None = None) -> object:
        """Notice what has changed, among these tensors at least, or all; true if anything has."""


@attrs.frozen(eq=False)
class Ended:
    """A stage that has ended, before its certificate is issued."""

    tasks: Sequence[Task]
    """Those that were trained together; they have just been evaluated through `recorders`."""
    recorders: Mapping[str, ProbeRecorder]
    """The learner's outputs for each task so far, by id."""
    replays: Mapping[str, Replay]
    """Of the probes of earlier tasks, by id, with the learner as it is; others are replayed here."""
    changed: Callable[[], Table]
    """What has changed in the learner's digests since the stage before."""
    outside: Collection[str]
    """Ids of tasks that had other values when they were evaluated once more, although nothing that they had
    read had changed."""
    measured: Collection[str] | None
    """Ids of the tasks that have just been evaluated; None if they are not known."""
    files: Collection[str]
    """Documents and visualisations that were written or deleted since, by path in the run folder."""


def certify(
    followed: Followed,
    ended: Ended,
    folder: RunFolder,
    chain: Chain,
    log: CertificateLog,
    precision: str,
    identity: Identity | None,
    seed: int,
    full: bool,
    warning: Callable[[str], None],
) -> None:
    """Continue a run's certificate after a stage, and write the probes of its tasks.

    To be called before the stage's checkpoint is written, and after its evaluations are: a run killed in
    between is rewound to the checkpoint before.

    Args:
        followed: the learner after the stage, frozen and in eval mode.
        ended: the stage.
        folder: of the run; its ``eval.jsonl`` has R so far.
        chain: the run's checkpoints, up to that before the stage.
        log: the certificate up to the stage before, to which the stage is appended.
        precision: of the learner's outputs, a key of `probes.ROUNDING`.
        identity: of the run now; compared with those of its checkpoints.
        seed: of the run, which decides whose probes are replayed.
        full: replay the probes of all tasks, and write ``certificate.json``.
        warning: gets a line for each record that is lost.

    Raises:
        WriteError: a file cannot be written.
        WeightsError: probes cannot be read.
    """
    rounding = probes.ROUNDING[precision]
    full = full or _must_be_full(log, chain, identity)
    stage = _StageEnd(followed, ended, folder, chain, log, identity, rounding, seed, full, warning)
    line = stage.examine()
    used = None if full or ended.measured is None else stage.used([*ended.measured, *line.replayed])
    if followed.refresh(within=used):  # evaluation has changed the learner: see for which tasks
        stage.replay_watched()
        followed.refresh()
        line = stage.examine()
    log.append(folder, line)
    if full:
        names = [name for name, _ in probes.named_tensors(followed.learner)]
        digests = followed.named_digests
        certificate = log.certificate(folder, "")
        write_certificate(folder, attrs.evolve(certificate, now={name: digests[name] for name in names}))


def _must_be_full(log: CertificateLog, chain: Chain, identity: Identity | None) -> bool:
    """Whether the records of all earlier tasks may be others now: conditions have changed, or outputs depend
    on state that is no tensor."""
    before = read_identity(chain.identity) if chain.steps else None
    if before is not None and identity is not None and condition_changes(before, identity):
        return True
    if log.processor and log.processor != processor():
        return True
    return bool(log.outside)


@attrs.frozen(eq=False)
class _StageEnd:
    """What `certify` looks at; its arguments are described there."""

    followed: Followed
    ended: Ended
    folder: RunFolder
    chain: Chain
    log: CertificateLog
    identity: Identity | None
    rounding: float
    seed: int
    full: bool
    warning: Callable[[str], None]
    _kept: dict[str, Replay] = attrs.field(factory=dict)
    """Replays by task, between which all tensors were compared."""

    def replay_watched(self) -> None:
        """Replay all probes once more, and compare all tensors before and after each replay."""
        replayed = [id for id in self._tasks_to_replay(self._replaced()) if id in self.log.records]
        for id in replayed:
            stored = Stored.read(self.folder.path / self.log.records[id].probes.file)
            self._kept[id] = self._replay(id, stored.as_inputs(), watched=True)
        for task in self.ended.tasks:
            recorded = self.ended.recorders[task.id].recorded
            self._kept[task.id] = self._replay(task.id, recorded.as_inputs(), watched=True)

    def used(self, ids: Sequence[str]) -> set[str]:
        """Names of the tensors that predictions for these tasks have read or written."""
        names = {name for task in self.ended.tasks for name in self.ended.recorders[task.id].recorded.reads}
        records = [record for id in ids if (record := self.log.records.get(id)) is not None]
        return names.union(*([*record.all_tensors, *record.newly_read] for record in records))

    def examine(self) -> Line:
        """The line of the stage."""
        log, table, folder = self.log, self.ended.changed(), self.folder
        replaced = self._replaced()
        stage = Stage([task.id for task in self.ended.tasks], replaced)
        stages = [*log.stages, stage]
        replayed = self._tasks_to_replay(replaced)
        self._drop_damaged(replayed)
        replayed = [id for id in replayed if id in log.records]
        after = len(log.trained) + len(self.ended.tasks)
        columns = read_columns(folder, [*log.trained, *stage.tasks]) if self.full else {}
        past = self._history(replayed, after)
        digests, records = self.followed.named_digests, list[TaskRecord]()
        numbers = self.log.stage_numbers
        for id in replayed:
            record = log.records[id]
            stored = Stored.read(folder.path / record.probes.file)
            replay = self._kept.get(id) or self.ended.replays.get(id)
            replay = replay or self._replay(id, stored.as_inputs())
            if id in self.ended.outside and not replay.cause:
                replay = attrs.evolve(replay, cause=OUTSIDE)
            rounding = past.rounding(record.after, self.rounding)
            state = State(self.followed.tensors, digests, stages[numbers[id] + 1 :], rounding)
            if self.full:
                record = attrs.evolve(record, conditions=past.changes(record.after))
            measured = columns[id][record.after - 1 :] if self.full else []
            earlier = partial(_tensors_at, folder, record.after, self.chain)
            updated = bare(compare(record, stored, replay, measured, state, earlier))
            if updated != log.records[id]:
                records.append(updated)
        for task in self.ended.tasks:
            records.append(bare(self._first(task, after)))
        return Line([stage], records, table, self._files([*log.trained, *stage.tasks]), processor(), replayed)

    def _replaced(self) -> list[str]:
        """The tensors that existed before the stage and are gone or have other bits."""
        table = self.ended.changed()
        return sorted(name for name in (*table.changed, *table.gone) if name in self.log.now)

    def _tasks_to_replay(self, replaced: Sequence[str]) -> list[str]:
        earlier = self.log.trained
        if self.full:
            return earlier
        affected = self.log.affected(replaced) | self.ended.replays.keys()
        others = [id for id in earlier if id not in affected]
        draw = random.Random(derive_seed(self.seed, "replay", len(self.log.stages)))
        chosen = affected.union(draw.sample(others, min(SAMPLE, len(others))))
        return [id for id in earlier if id in chosen]

    def _drop_damaged(self, ids: Sequence[str]) -> None:
        """Drop records whose probes are not as they were written."""
        dropped = []
        for id in ids:
            if (record := self.log.records.get(id)) is not None and (reason := damage(self.folder, record)):
                self.warning(f"{reason}; {FILE} has no record of {id} any more")
                dropped.append(id)
        self.log.drop(dropped)

    def _history(self, ids: Sequence[str], after: int) -> History:
        records = [self.log.records[id] for id in ids]
        path, chain = self.folder.checkpoints, self.chain
        past = {
            count: checkpoint.recorded_identity(checkpoint.boundary(path, count), chain)
            for count in dict.fromkeys(record.after for record in records)
        }
        return history(records, past | {after: self.identity}, {after: processor()})

    def _replay(self, id: str, inputs: Inputs, watched: bool = False) -> Replay:
        followed = self.followed
        names = None if watched else followed.names_at
        predict = self.ended.recorders[id].predict
        return probes.replay(followed.learner, predict, inputs, self.rounding, id, names_at=names)

    def _first(self, task: Task, after: int) -> TaskRecord:
        """The record of a task that has just been trained."""
        recorded = self.ended.recorders[task.id].recorded
        replayed = self._kept.get(task.id) or self._replay(task.id, recorded.as_inputs())
        stored = Stored(recorded.inputs, replayed.output, recorded.lengths, recorded.output, recorded.context)
        file = f"{PROBES}/{task.id}.safetensors"
        path = self.folder.path / file
        stored.write(path)
        examined = Probes(
            file=file,
            sha256=hashing.file_digest(path),
            examples=len(replayed.output),
            same=True,
            change=probes.change(replayed.output, replayed.output),
            finite=probes.finite(replayed.output),
            cause=replayed.cause or _cause_of_first(stored, self.rounding),
        )
        digests = self.followed.named_digests
        return TaskRecord(
            id=task.id,
            after=after,
            verdict=LAST,
            scope="",
            tensors={name: digests[name] for name in sorted(replayed.read)},
            changed={},
            newly_read=[],
            no_longer_read=[],
            probes=examined,
            sketch=_sketch(task),
            processor=processor(),
            read_in_evaluation={
                name: digests[name]
                for name in recorded.reads
                if name not in replayed.read and name in digests
            },
        )

    def _files(self, trained: Sequence[str]) -> Table:
        """How task cards, documents and visualisations differ from those of the stage before."""
        if self.full:
            return Table.between(self.log.files, dict(accounts.file_digests(self.folder, trained)))
        cards = [f"{CARDS}/{task.id}.json" for task in self.ended.tasks]
        changed, gone = dict[str, str](), list[str]()
        for name in sorted({*self.ended.files, *cards, DATA}):
            digest = accounts.digest_of_file(self.folder, name)
            if digest is None:
                gone += [name] if name in self.log.files else []
            elif self.log.files.get(name) != digest:
                changed[name] = digest
        return Table(changed, gone)


@attrs.frozen(eq=False)
class State:
    """A learner after the last stage."""

    tensors: Mapping[str, Tensor]
    """Its parameters and buffers."""
    digests: Mapping[str, str]
    """Of `tensors`."""
    later: Sequence[Stage]
    """The stages after that of the task."""
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
    verdict = rule(updated, bool(state.later))
    scope = ""
    if verdict == ZERO:
        scope = TENSORS_READ if any(stage.changed for stage in state.later) else ALL_TENSORS
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


def _sketch(task: Task) -> TaskSketch | None:
    is_plain = isinstance(task, SupervisedTask) and type(task).make_head is SupervisedTask.make_head
    if not is_plain or task.outputs.kind != "logits" or task.outputs.size is None:
        return None  # its card describes it
    inputs = {name: list(shape) for name, shape in task.inputs.items()}
    return TaskSketch(task.title, inputs, task.outputs.size)
