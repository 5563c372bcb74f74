"""Checking a certificate from the run folder alone: hashes of checkpoints, and replays of probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate, pairwise
from typing import Any

import attrs
from torch import Tensor, nn

from sidetune_core import hashing
from sidetune_core.assembly.build import build_stream
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.restore import choose_machine, read_resolved, restore
from sidetune_core.certificate import probes
from sidetune_core.certificate.issue import compare
from sidetune_core.certificate.probes import Stored
from sidetune_core.certificate.record import (
    INCOMPLETE,
    Certificate,
    TaskRecord,
    TaskSketch,
    overall,
    read_certificate,
)
from sidetune_core.config.plugin_record import recorded_changes
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.errors import RunError, WeightsError, shorten
from sidetune_core.interfaces.heads import ClassHead
from sidetune_core.interfaces.inputs import InputShapes, Shape
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task, TaskStream
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.device import Machine

ROUNDING = 0.05
"""Largest relative difference of outputs that counts as rounding (another machine, library or thread count).

Coarse enough for bf16; the exact check is that of the hashes.
"""

States = Mapping[int, Mapping[str, Any]]
"""The learner's state dict by number of trained tasks."""


@attrs.frozen
class Verification:
    """The result of checking a certificate."""

    certificate: Certificate
    problems: tuple[str, ...]
    """Contradictions between folder and certificate; none if the certificate holds."""
    notes: tuple[str, ...]
    """Remarks that are no contradiction."""
    cause: str = ""
    """The likely cause of the problems, where plugins are not those that the run was made with."""


def verify(folder: RunFolder) -> Verification:
    """Check a run's certificate against its checkpoints, its probes and its plugins.

    The env's data is needed only if a task is not plain classification. The components' initial weights are
    not needed.

    Raises:
        RunError: the folder has no certificate, or it cannot be read.
        SidetuneError: the run's components can no longer be built.
    """
    certificate = read_certificate(folder)
    if certificate is None:
        raise RunError(
            f"{folder.path} has no certificate: no task was trained, or an older sidetune made the run"
        )
    if problems := list(_contradictions(certificate)):
        return Verification(certificate, tuple(problems), ())
    states: dict[int, Mapping[str, Any]] = {}
    stored: dict[str, Stored] = {}
    for count in dict.fromkeys(task.after for task in certificate.tasks):
        try:
            states[count] = _read_state(folder, certificate.trained[:count])
        except (RunError, WeightsError) as error:
            problems.append(str(error))
    for task in certificate.tasks:
        try:
            stored[task.id] = _read_probes(folder, task)
        except (RunError, WeightsError) as error:
            problems.append(f"{task.id}: {error}")
    newest = checkpoint.latest(folder.checkpoints)
    if newest is not None and newest != checkpoint.boundary(folder.checkpoints, len(certificate.trained)):
        problems.append(
            f"the newest checkpoint is {newest}, but the certificate was issued after "
            f"{', '.join(certificate.trained)}"
        )
    if problems:
        return Verification(certificate, tuple(problems), ())
    problems += _hash_mismatches(certificate, states)
    resolved = read_resolved(folder)
    changes = resolved.plugin_changes()
    notes = [f"another plugin is installed than the run was made with: {change}" for change in changes]
    notes += [f"the run noted: {line}" for line in recorded_changes(folder.read_json("run.json"))]
    reason = "rounding, which depends on the machine and the number of threads"
    if any(change.source_changed for change in changes):
        reason = f"the other source of a plugin, or {reason}"
    problems += _replay_mismatches(folder, resolved, certificate, states, stored, notes, reason)
    cause = ""
    if problems and changes:
        cause = f"{'; '.join(map(str, changes))}. To verify what the run was made with: {changes[0].remedy}"
    return Verification(certificate, tuple(problems), tuple(notes), cause)


def _contradictions(certificate: Certificate) -> Iterator[str]:
    """Where the certificate contradicts itself."""
    verdict = overall(certificate.trained, certificate.tasks)
    if verdict != certificate.verdict:
        yield (
            f"the certificate's verdict is '{certificate.verdict}', but the verdicts on its tasks amount to "
            f"'{verdict}'"
        )
    recorded = {task.id for task in certificate.tasks}
    if missing := [task for task in certificate.trained if task not in recorded]:
        yield f"{INCOMPLETE}: {shorten(missing)}"
        return
    counts = accumulate(len(stage.tasks) for stage in certificate.stages)
    ends = [
        (task, count) for stage, count in zip(certificate.stages, counts, strict=True) for task in stage.tasks
    ]
    if ends != [(task.id, task.after) for task in certificate.tasks]:
        yield "the certificate's list of tasks contradicts its list of stages"


def _read_state(folder: RunFolder, done: Sequence[str]) -> Mapping[str, Any]:
    """The learner's state dict in the checkpoint after some tasks.

    Raises:
        RunError, WeightsError: the checkpoint is missing, damaged, or of other tasks.
    """
    path = checkpoint.boundary(folder.checkpoints, len(done))
    existing = checkpoint.read(path)
    if existing.done != list(done):
        raise RunError(
            f"{path} is the checkpoint after tasks {', '.join(existing.done)}; the certificate has "
            f"{', '.join(done)}"
        )
    return existing.state


def _read_probes(folder: RunFolder, task: TaskRecord) -> Stored:
    """The probes of a task.

    Raises:
        RunError, WeightsError: their file is missing or has changed.
    """
    path = folder.path / task.probes.file
    if path.is_file() and hashing.file_digest(path) != task.probes.sha256:
        raise RunError(f"the probes {path} have changed since they were written")
    return Stored.read(path)


def _hash_mismatches(certificate: Certificate, states: States) -> Iterator[str]:
    """Where the checkpoints' hashes differ from the certificate's."""
    actual = {count: hashing.digests(_tensors(state)) for count, state in states.items()}
    for task in certificate.tasks:
        digests = actual[task.after]
        wrong = [name for name, digest in task.tensors.items() if digests.get(name, digest) != digest]
        if wrong:
            yield f"{task.id}: its checkpoint has other hashes than the certificate for {shorten(wrong)}"
    for stage, (before, after) in zip(certificate.stages[1:], pairwise(actual.values()), strict=True):
        changed = {name for name, digest in before.items() if after.get(name) != digest}
        wrong = sorted(changed ^ (set(stage.changed) & before.keys()))
        if wrong:
            yield (
                f"{', '.join(stage.tasks)}: the checkpoints contradict the certificate about whether this "
                f"stage changed {shorten(wrong)}"
            )


def _replay_mismatches(
    folder: RunFolder,
    resolved: ResolvedRun,
    certificate: Certificate,
    states: States,
    stored: Mapping[str, Stored],
    notes: list[str],
    reason: str,
) -> Iterator[str]:
    """Where the learner, rebuilt from the newest checkpoint, contradicts the certificate.

    `reason` is that of differences of outputs that are as small as those of rounding.
    """
    machine = choose_machine(resolved)
    run_machine = folder.read_json("run.json").get("machine")
    if str(machine) != run_machine:
        notes.append(f"checked on {machine}; the run was on {run_machine}")
    count = len(certificate.trained)
    source = str(checkpoint.boundary(folder.checkpoints, count))
    try:
        learner, tasks = _restore(resolved, certificate, states[count], source, machine)
    except WeightsError as error:
        yield str(error)
        return
    tensors = dict(probes.named_tensors(learner))
    now = hashing.digests(tensors)
    names = sorted(now.keys() | certificate.now.keys())
    if wrong := [name for name in names if now.get(name) != certificate.now.get(name)]:
        yield (
            f"the learner of the newest checkpoint has other hashes than the certificate for {shorten(wrong)}"
        )
    for task in certificate.tasks:
        before = stored[task.id]
        predict = make_predict(learner, tasks[task.id], machine)
        replayed = probes.replay(learner, predict, before.inputs, task.id)
        change = probes.change(before.output, replayed.output)
        if task.probes.same and change is not None and 0 < change.relative <= ROUNDING:
            notes.append(
                f"{task.id}: outputs for its probes differ by {change.absolute:.3g} from the stored ones: "
                f"{reason}"
            )
            replayed = attrs.evolve(replayed, output=before.output)
        boundary = checkpoint.boundary(folder.checkpoints, task.after)
        recomputed = compare(task, before, replayed, tensors, now, boundary, certificate.stages)
        yield from _differences(task, recomputed)


def _differences(certified: TaskRecord, recomputed: TaskRecord) -> Iterator[str]:
    """Where the recomputed record of a task differs from the certificate's."""
    task = certified.id
    for field in ("verdict", "scope", "changed", "newly_read", "no_longer_read"):
        expected, actual = getattr(certified, field), getattr(recomputed, field)
        if expected != actual:
            yield (
                f"{task}: {field.replace('_', ' ')} is {_quote(expected)} in the certificate, but recomputed "
                f"as {_quote(actual)}"
            )
    expected, actual = certified.probes, recomputed.probes
    if expected.examples != actual.examples:
        yield f"{task}: the certificate has {expected.examples} probes, but there are {actual.examples}"
    apart = abs(expected.change.relative - actual.change.relative)
    if expected.same != actual.same or not apart <= ROUNDING:
        yield (
            f"{task}: outputs for its probes changed by {expected.change.absolute:.3g} according to the "
            f"certificate, but by {actual.change.absolute:.3g} when replayed"
        )


def _restore(
    resolved: ResolvedRun, certificate: Certificate, state: Mapping[str, Any], source: str, machine: Machine
) -> tuple[Learner, Mapping[str, Task]]:
    """The learner of a checkpoint and its tasks: sketches if they suffice, otherwise the env's."""
    sketches = {task.id: task.sketch for task in certificate.tasks if task.sketch is not None}
    if len(sketches) == len(certificate.tasks):
        sketched = _SketchedStream(sketches)
        try:
            learner = restore(resolved, sketched, sketched.tasks(), state, source, machine)
            return learner, {task.id: task for task in sketched.tasks()}
        except _DataNeeded:
            pass
    with closing(build_stream(resolved)) as stream:
        tasks = [task for task in stream.tasks() if task.id in certificate.trained]
        learner = restore(resolved, stream, tasks, state, source, machine)
    return learner, {task.id: task for task in tasks}


class _DataNeeded(Exception):
    """A learner needs more of a task than its sketch."""


class _SketchedTask(Task):
    """A classification task without its data."""

    def __init__(self, id: str, sketch: TaskSketch) -> None:
        self.id, self.title, self._classes = id, sketch.title, sketch.classes
        self.inputs: InputShapes = {name: tuple(shape) for name, shape in sketch.inputs.items()}

    def make_head(self, shape: Shape) -> nn.Module:
        return ClassHead(shape, self._classes)

    def steps_per_epoch(self, batch_size: int) -> int:
        raise _DataNeeded

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        raise _DataNeeded

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        raise _DataNeeded

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        raise _DataNeeded


class _SketchedStream(TaskStream):
    """A stream of sketched tasks."""

    def __init__(self, sketches: Mapping[str, TaskSketch]) -> None:
        self._tasks = [_SketchedTask(id, sketch) for id, sketch in sketches.items()]
        self.inputs = self._tasks[0].inputs

    def tasks(self) -> Sequence[Task]:
        return self._tasks


def _tensors(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """A state dict without extra state (``nn.Module.get_extra_state``)."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _quote(value: Any) -> str:
    """A field of a record for a message."""
    return shorten(list(value)) or "nothing" if isinstance(value, dict | list) else f"'{value}'"
