"""Checking a certificate later, from the run's folder alone: the hashes of its checkpoints, and its probes through a learner built anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate, pairwise
from typing import Any

import attrs
from torch import Tensor, nn

from sidetune_core import hashing
from sidetune_core.assembly.build import build_learner, build_stream, without_weights
from sidetune_core.assembly.predict import make_predict
from sidetune_core.certificate import probes
from sidetune_core.certificate.issue import compare
from sidetune_core.certificate.probes import Stored
from sidetune_core.certificate.record import Certificate, Outline, TaskRecord, overall, read_certificate
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.config.spec import from_values
from sidetune_core.errors import OptionError, RunError, WeightsError
from sidetune_core.interfaces.heads import ClassHead
from sidetune_core.interfaces.inputs import InputShapes, Shape
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task, TaskStream
from sidetune_core.seeding import seeded
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.weights import fill
from sidetune_core.system import device
from sidetune_core.system.device import Machine

ROUNDING = 0.05
"""Largest difference of outputs, as a share of their largest value, that is put down to another machine, library or number of threads. It
is coarse, for bf16: what tells exactly is the hashes."""

States = Mapping[int, Mapping[str, Any]]
"""The learner's state after so many tasks."""


@attrs.frozen
class Verification:
    """What was found."""

    certificate: Certificate
    problems: tuple[str, ...]
    """Where folder and certificate contradict each other; none where the certificate holds."""
    notes: tuple[str, ...]
    """What is no contradiction and still worth knowing."""


def verify(folder: RunFolder) -> Verification:
    """Check a run's certificate against its checkpoints, its probes and its plugins.

    Its env's data is needed only where a task is no plain classification; weights that its parts began with never are.

    Raises:
        RunError: the folder has no certificate, or one that cannot be read.
        SidetuneError: the run's parts cannot be built any more.
    """
    record = read_certificate(folder)
    if record is None:
        raise RunError(
            f"{folder.path} has no certificate: no task has been learnt in it, or an older version of sidetune ran it"
        )
    if problems := list(_contradictions(record)):
        return Verification(record, tuple(problems), ())
    states: dict[int, Mapping[str, Any]] = {}
    stored: dict[str, Stored] = {}
    for count in dict.fromkeys(task.after for task in record.tasks):
        try:
            states[count] = _read_state(folder, record.learnt[:count])
        except (RunError, WeightsError) as error:
            problems.append(str(error))
    for task in record.tasks:
        try:
            stored[task.id] = _read_probes(folder, task)
        except (RunError, WeightsError) as error:
            problems.append(f"{task.id}: {error}")
    newest = checkpoint.latest(folder.checkpoints)
    if newest is not None and newest != checkpoint.boundary(folder.checkpoints, len(record.learnt)):
        problems.append(
            f"the newest checkpoint is {newest}, and the certificate is of another moment, after {', '.join(record.learnt)}"
        )
    if problems:
        return Verification(record, tuple(problems), ())
    problems += _hashes(record, states)
    notes: list[str] = []
    problems += _replays(folder, record, states, stored, notes)
    return Verification(record, tuple(problems), tuple(notes))


def _contradictions(record: Certificate) -> Iterator[str]:
    """Where the certificate contradicts itself."""
    found = overall(record.learnt, record.tasks)
    if found != record.verdict:
        yield f"the verdict of the certificate is '{record.verdict}', and those on its tasks amount to '{found}'"
    counts = accumulate(len(stage.tasks) for stage in record.stages)
    ends = [(task, count) for stage, count in zip(record.stages, counts, strict=True) for task in stage.tasks]
    if ends != [(task.id, task.after) for task in record.tasks]:
        yield "the certificate's list of tasks contradicts its list of stages"


def _read_state(folder: RunFolder, done: Sequence[str]) -> Mapping[str, Any]:
    """The learner's state in the checkpoint after some tasks.

    Raises:
        RunError, WeightsError: it is missing, damaged, or of other tasks.
    """
    path = checkpoint.boundary(folder.checkpoints, len(done))
    found = checkpoint.read(path)
    if found.done != list(done):
        raise RunError(
            f"{path} is of the tasks {', '.join(found.done)}, and the certificate of {', '.join(done)}"
        )
    return found.state


def _read_probes(folder: RunFolder, task: TaskRecord) -> Stored:
    """The probes of a task.

    Raises:
        RunError, WeightsError: their file is missing, or is not what was written.
    """
    path = folder.path / task.probes.file
    if path.is_file() and hashing.file_digest(path) != task.probes.sha256:
        raise RunError(f"the probes {path} have changed since they were written")
    return Stored.read(path)


def _hashes(record: Certificate, states: States) -> Iterator[str]:
    """Where the certificate's hashes are not those of the checkpoints."""
    found = {count: hashing.digests(_tensors(state)) for count, state in states.items()}
    for task in record.tasks:
        if wrong := [
            name for name, digest in task.tensors.items() if found[task.after].get(name, digest) != digest
        ]:
            yield f"{task.id}: the checkpoint after it has other hashes than the certificate for {_some(wrong)}"
    for stage, (before, after) in zip(record.stages[1:], pairwise(found.values()), strict=True):
        changed = {name for name, digest in before.items() if after.get(name) != digest}
        if wrong := sorted(changed ^ (set(stage.changed) & before.keys())):
            yield f"{', '.join(stage.tasks)}: by the checkpoints, the certificate is wrong about whether this changed {_some(wrong)}"


def _replays(
    folder: RunFolder, record: Certificate, states: States, stored: Mapping[str, Stored], notes: list[str]
) -> Iterator[str]:
    """Where the learner, built again from the newest checkpoint, is or does something else than the certificate says."""
    about = folder.read_json("run.json")
    composition = _without_weights(
        resolve(from_values(about.get("resolved"), str(folder.path / "run.json"), recorded=True))
    )
    machine = _choose(composition)
    if str(machine) != about.get("machine"):
        notes.append(f"checked on {machine}; the run was on {about.get('machine')}")
    learner, tasks = _rebuild(composition, record, machine)
    count = len(record.learnt)
    try:
        fill(learner, states[count], str(checkpoint.boundary(folder.checkpoints, count)))
    except WeightsError as error:
        yield str(error)
        return
    learner.requires_grad_(False).eval()
    tensors = dict(probes.named_tensors(learner))
    now = hashing.digests(tensors)
    if wrong := sorted(
        name for name in now.keys() | record.now.keys() if now.get(name) != record.now.get(name)
    ):
        yield f"the learner of the newest checkpoint has other hashes than the certificate for {_some(wrong)}"
    for task in record.tasks:
        before = stored[task.id]
        found = probes.replay(learner, make_predict(learner, tasks[task.id], machine), before.inputs, task.id)
        change = probes.change(before.output, found.output)
        if task.probes.same and change is not None and 0 < change.relative <= ROUNDING:
            notes.append(
                f"{task.id}: outputs for its probes differ by {change.absolute:.3g} from the stored ones: rounding, which differs from "
                "machine to machine and with the number of threads"
            )
            found = attrs.evolve(found, output=before.output)
        again = compare(
            task,
            before,
            found,
            tensors,
            now,
            checkpoint.boundary(folder.checkpoints, task.after),
            record.stages,
        )
        yield from _differences(task, again)


def _differences(said: TaskRecord, found: TaskRecord) -> Iterator[str]:
    """What was found about a task and is not what the certificate says."""
    for field in ("verdict", "ground", "moved", "read_anew", "no_longer_read"):
        one, other = getattr(said, field), getattr(found, field)
        if one != other:
            words = [
                _some(list(value)) or "nothing" if isinstance(value, dict | list) else f"'{value}'"
                for value in (one, other)
            ]
            yield f"{said.id}: {field.replace('_', ' ')} is {words[0]} in the certificate, and {words[1]} was found"
    apart = abs(said.probes.change.relative - found.probes.change.relative)
    if said.probes.examples != found.probes.examples:
        yield f"{said.id}: it has {found.probes.examples} probes, and {said.probes.examples} by the certificate"
    if said.probes.same != found.probes.same or not apart <= ROUNDING:
        yield (
            f"{said.id}: outputs for its probes have changed by {said.probes.change.absolute:.3g} by the certificate, and by "
            f"{found.probes.change.absolute:.3g} was found"
        )


def _rebuild(
    composition: ResolvedRun, record: Certificate, machine: Machine
) -> tuple[Learner, Mapping[str, Task]]:
    """The learner with every task started, and the tasks: outlines where these are enough, or else the env's own."""
    outlines = {task.id: task.outline for task in record.tasks if task.outline is not None}
    if len(outlines) == len(record.tasks):
        outlined = _Outlined(outlines)
        try:
            return _start(composition, outlined, outlined.tasks(), machine)
        except _DataWanted:
            pass
    with closing(build_stream(composition)) as stream:
        return _start(
            composition, stream, [task for task in stream.tasks() if task.id in record.learnt], machine
        )


def _start(
    composition: ResolvedRun, stream: TaskStream, tasks: Sequence[Task], machine: Machine
) -> tuple[Learner, Mapping[str, Task]]:
    learner = build_learner(composition, stream)
    machine.place(learner)
    for task in tasks:
        with seeded(composition.seed, "start", task.id):
            learner.start(task)
        machine.place(learner)
    return learner, {task.id: task for task in tasks}


def _without_weights(composition: ResolvedRun) -> ResolvedRun:
    """The same parts at random: the checkpoint has all that they need."""
    components = {
        slot: attrs.evolve(component, config=without_weights(component))
        for slot, component in composition.components.items()
    }
    return attrs.evolve(composition, components=components)


def _choose(composition: ResolvedRun) -> Machine:
    """The machine that the run asked for, or the CPU where it is not here."""
    try:
        return device.choose(composition.device)
    except OptionError:
        return device.choose(attrs.evolve(composition.device, name="cpu"))


class _DataWanted(Exception):
    """A learner needs more of a task than its outline."""


class _OutlinedTask(Task):
    """A classification task without its data."""

    def __init__(self, id: str, outline: Outline) -> None:
        self.id, self.title, self._classes = id, outline.title, outline.classes
        self.inputs: InputShapes = {name: tuple(shape) for name, shape in outline.inputs.items()}

    def make_head(self, shape: Shape) -> nn.Module:
        return ClassHead(shape, self._classes)

    def steps_per_epoch(self, batch_size: int) -> int:
        raise _DataWanted

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        raise _DataWanted

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        raise _DataWanted

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        raise _DataWanted


class _Outlined(TaskStream):
    """A stream of such tasks."""

    def __init__(self, outlines: Mapping[str, Outline]) -> None:
        self._tasks = [_OutlinedTask(id, outline) for id, outline in outlines.items()]
        self.inputs = self._tasks[0].inputs

    def tasks(self) -> Sequence[Task]:
        return self._tasks


def _tensors(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Without what a module has put beside its tensors (``get_extra_state``)."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
