"""The certificate of a run: what earlier tasks depend on, whether it is still the same, and the words for it.

`certify` computes it after each task, `verify` checks it later; here is what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import cattrs
import cattrs.errors

from sidetune_core.errors import RunError
from sidetune_core.storage.run_folder import RunFolder

FILE = "certificate.json"

STATEMENT = (
    "For each task, 'tensors' names every parameter and buffer that PyTorch read while the task's stored probes went through the learner "
    "right after the task had been learnt, with its SHA-256 then (over name, type, shape and bytes); 'now' has those of the whole learner "
    "at its end. Zero by construction means: the same tensors are read now, all are the same bit for bit, and so are the outputs for the "
    "probes; so whatever figure of the task is computed with them is the same too, on the same machine, libraries and batches. Where the "
    "ground is 'everything', no tensor at all that was there has changed, whatever path an input takes; where it is 'what is read', the "
    "claim is about the path that the probes take, which for a network that routes inputs is not the path of every input. A certificate "
    "says nothing about state outside of parameters and buffers, other than that the probes do not show it, nor about rounding on another "
    "machine. 'stages' has, for each step of the stream, the tensors of before that it changed."
)


@attrs.frozen
class Change:
    """How far something is from what it was: the largest difference, and that divided by the largest value before."""

    absolute: float
    relative: float


@attrs.frozen
class Probes:
    """Inputs of a task, stored with the outputs for them right after it was learnt."""

    file: str
    sha256: str
    examples: int
    same: bool
    """Whether the outputs are still the same bit for bit."""
    change: Change


@attrs.frozen
class Outline:
    """A classification task without its data: enough to build its learner again."""

    title: str
    inputs: dict[str, list[int]]
    classes: int


@attrs.frozen
class TaskRecord:
    """What is certified about one task."""

    id: str
    after: int
    """How many tasks had been learnt when it had been: the number of its checkpoint."""
    verdict: str
    ground: str
    """``everything``, ``what is read``, or empty where the verdict is another."""
    tensors: dict[str, str]
    moved: dict[str, Change | None]
    """Of `tensors`, those that changed; None where the change cannot be measured (gone, or its checkpoint is)."""
    read_anew: list[str]
    """What is read now and was not when the task had been learnt."""
    no_longer_read: list[str]
    probes: Probes
    outline: Outline | None
    """None for a task whose head only its env can make."""


@attrs.frozen
class Stage:
    """One step of the stream: the tasks that were learnt in it, and which tensors from before it changed or took away."""

    tasks: list[str]
    changed: list[str]


@attrs.frozen
class Certificate:
    """All of ``certificate.json``."""

    statement: str
    verdict: str
    learnt: list[str]
    tasks: list[TaskRecord]
    stages: list[Stage]
    now: dict[str, str]


ZERO = "zero by construction"
NOT_ZERO = "not zero by construction"
LAST = "nothing was learnt after it"
NOTHING_LATER = "no task was learnt after another"
INCOMPLETE = "some tasks have no record"


def judge(same: bool, moved: bool, read_otherwise: bool, later: bool) -> str:
    """The verdict on one task."""
    if not later:
        return LAST
    return ZERO if same and not moved and not read_otherwise else NOT_ZERO


def overall(learnt: Sequence[str], records: Sequence[TaskRecord]) -> str:
    """The verdict on a run: of its earlier tasks, the worst."""
    if [record.id for record in records] != list(learnt):
        return INCOMPLETE
    earlier = {record.verdict for record in records} - {LAST}
    return min(earlier, key=(NOT_ZERO, ZERO).index, default=NOTHING_LATER)


def write_certificate(folder: RunFolder, certificate: Certificate) -> None:
    """Write ``certificate.json``, whole or not at all."""
    folder.write_json(FILE, attrs.asdict(certificate))


def read_certificate(folder: RunFolder) -> Certificate | None:
    """The certificate of a run; None where there is none yet.

    Raises:
        RunError: it is damaged.
    """
    if not (folder.path / FILE).is_file():
        return None
    values = folder.read_json(FILE)
    try:
        return _CONVERTER.structure(values, Certificate)
    except (cattrs.errors.BaseValidationError, cattrs.errors.StructureHandlerNotFoundError) as error:
        raise RunError(
            f"{folder.path / FILE} is damaged: {'; '.join(cattrs.transform_error(error))[:300]}"
        ) from error


def certificate_lines(certificate: Certificate) -> list[str]:
    """The certificate in a line, and in one more for each task where something has changed."""
    earlier = [record for record in certificate.tasks if record.verdict != LAST]
    if not earlier:
        return []
    if certificate.verdict == ZERO:
        kept = (
            "any tensor or buffer that was there"
            if all(one.ground == "everything" for one in earlier)
            else "what they read"
        )
        return [
            f"Forgetting is zero by construction for {_span(earlier)}: no later task changed {kept}, and stored probes give the same "
            f"outputs bit for bit (hashes in {FILE}, checked by sidetune verify)"
        ]
    if certificate.verdict == INCOMPLETE:
        return [f"Not certified: {INCOMPLETE} in {FILE}"]
    told = [
        f"Forgetting is not zero by construction; of what a task depends on, later ones changed (all in {FILE}):"
    ]
    for record in earlier:
        if record.verdict == ZERO:
            told.append(f"  {record.id}: nothing")
            continue
        told.append(f"  {record.id}: {_moved(record)}; outputs for its probes {_outputs(record.probes)}")
    return told


def _span(records: Sequence[TaskRecord]) -> str:
    return records[0].id if len(records) == 1 else f"{records[0].id} to {records[-1].id}"


def _moved(record: TaskRecord) -> str:
    parts = []
    if record.moved:
        measured: Mapping[str, Change] = {
            name: change for name, change in record.moved.items() if change is not None
        }
        most = max(measured, key=lambda name: measured[name].relative, default="")
        by = f", most {most} by {_size(measured[most])}" if most else ""
        parts.append(f"{len(record.moved)} of {len(record.tensors)} tensors{by}")
    if record.read_anew:
        parts.append(f"{len(record.read_anew)} tensors that are read now and were not")
    if record.no_longer_read:
        parts.append(f"{len(record.no_longer_read)} tensors that are no longer read")
    return "; ".join(parts) or "no tensor"


def _outputs(probes: Probes) -> str:
    return "are the same bit for bit" if probes.same else f"changed by up to {_size(probes.change)}"


def _size(change: Change) -> str:
    return f"{change.absolute:.3g} ({100 * change.relative:.3g} % of the largest value)"


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly)
    return converter


def _exactly(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, got {value!r}")
    return value


_CONVERTER = _make_converter()
