"""The contents of ``certificate.json``: what earlier tasks depend on, and whether later tasks changed it.

`issue.certify` computes them after each stage of the stream; `verify.verify` checks them later from the run
folder.
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

FORMAT = 2
"""Version of the keys. Files of format 1 lack the key ``format``; `read_certificate` translates them."""

STATEMENT = (
    "For each task, 'tensors' lists every parameter and buffer that PyTorch read while the task's stored "
    "probes passed through the learner right after the task was trained, with its SHA-256 at that time (over "
    "name, type, shape and bytes). 'now' lists the SHA-256 of every tensor of the learner after the last "
    "stage. Zero by construction means: the same tensors are read now, all of them are bit-identical, and so "
    "are the outputs for the probes. Any metric of the task that is computed from them is therefore "
    "unchanged too, on the same machine, with the same libraries and batches. With scope 'all tensors', no "
    "existing tensor has changed at all, whichever path an input takes. With scope 'tensors read', the claim "
    "covers the path of the probes only; in a network that routes inputs, other inputs may take another "
    "path. State outside parameters and buffers is covered only as far as the probes depend on it; rounding "
    "on another machine is not covered. 'stages' lists, for each stage of the stream, the existing tensors "
    "that it changed."
)

ZERO = "zero by construction"
NOT_ZERO = "not zero by construction"
LAST = "no task was trained after it"
NOTHING_LATER = "no task was trained after another"
INCOMPLETE = "some tasks have no record"

ALL_TENSORS = "all tensors"
TENSORS_READ = "tensors read"


@attrs.frozen
class Change:
    """Largest absolute difference of two tensors, and the same divided by the largest earlier magnitude."""

    absolute: float
    relative: float


@attrs.frozen
class Probes:
    """Stored inputs of a task, with the outputs for them right after it was trained."""

    file: str
    sha256: str
    examples: int
    same: bool
    """Whether the outputs are still bit-identical."""
    change: Change


@attrs.frozen
class TaskSketch:
    """A classification task without its data: enough to rebuild its learner."""

    title: str
    inputs: dict[str, list[int]]
    classes: int


@attrs.frozen
class TaskRecord:
    """The certificate of one task."""

    id: str
    after: int
    """Number of tasks trained up to and including its stage: the number of its checkpoint."""
    verdict: str
    scope: str
    """`ALL_TENSORS` or `TENSORS_READ` for the verdict `ZERO`, otherwise empty."""
    tensors: dict[str, str]
    changed: dict[str, Change | None]
    """Those of `tensors` that changed; None where the tensor or its checkpoint is missing."""
    newly_read: list[str]
    """Tensors that are read now and were not read right after the task was trained."""
    no_longer_read: list[str]
    probes: Probes
    sketch: TaskSketch | None
    """None where only the env can make the task's head."""


@attrs.frozen
class Stage:
    """The tasks that were trained together, and the existing tensors that this changed or removed."""

    tasks: list[str]
    changed: list[str]


@attrs.frozen
class Certificate:
    """The contents of ``certificate.json``."""

    statement: str
    verdict: str
    trained: list[str]
    tasks: list[TaskRecord]
    stages: list[Stage]
    now: dict[str, str]
    format: int = FORMAT


def judge(same: bool, changed: bool, reads_differ: bool, later: bool) -> str:
    """The verdict on one task."""
    if not later:
        return LAST
    return ZERO if same and not changed and not reads_differ else NOT_ZERO


def overall(trained: Sequence[str], records: Sequence[TaskRecord]) -> str:
    """The verdict on a run: the worst of its earlier tasks."""
    if [record.id for record in records] != list(trained):
        return INCOMPLETE
    earlier = {record.verdict for record in records} - {LAST}
    return min(earlier, key=(NOT_ZERO, ZERO).index, default=NOTHING_LATER)


def write_certificate(folder: RunFolder, certificate: Certificate) -> None:
    """Write ``certificate.json`` atomically."""
    folder.write_json(FILE, attrs.asdict(certificate))


def read_certificate(folder: RunFolder) -> Certificate | None:
    """The certificate of a run, in either format; None where there is none yet.

    Raises:
        RunError: the file is damaged, or a newer version of sidetune wrote it.
    """
    path = folder.path / FILE
    if not path.is_file():
        return None
    values = folder.read_json(FILE)
    if "format" not in values:
        values = _from_format_1(values)
    elif values["format"] != FORMAT:
        raise RunError(
            f"{path} has format {values['format']!r}, and this version of sidetune reads up to {FORMAT}"
        )
    try:
        return _CONVERTER.structure(values, Certificate)
    except (cattrs.errors.BaseValidationError, cattrs.errors.StructureHandlerNotFoundError) as error:
        details = "; ".join(cattrs.transform_error(error))[:300]
        raise RunError(f"{path} is damaged: {details}") from error


def certificate_lines(certificate: Certificate, plugin_changes: Sequence[str] = ()) -> list[str]:
    """One line for the run, one for each task that later tasks changed, and the plugins that changed during
    the run, which may be the cause (see `plugin_record.segment_lines`)."""
    if certificate.verdict == INCOMPLETE:
        return [f"Not certified: {INCOMPLETE} in {FILE}"]
    earlier = [record for record in certificate.tasks if record.verdict != LAST]
    if not earlier:
        return []
    if certificate.verdict == ZERO:
        everything = all(record.scope == ALL_TENSORS for record in earlier)
        unchanged = "any existing tensor" if everything else "a tensor that they read"
        return [
            f"Forgetting is zero by construction for {_span(earlier)}: no later task changed {unchanged}, "
            f"and the outputs for stored probes are bit-identical (hashes in {FILE}; check with sidetune "
            "verify)"
        ]
    lines = [f"Forgetting is not zero by construction; changes that later tasks made (all in {FILE}):"]
    for record in earlier:
        if record.verdict == ZERO:
            lines.append(f"  {record.id}: none")
        else:
            lines.append(
                f"  {record.id}: {_changes(record)}; outputs for its probes {_outputs(record.probes)}"
            )
    return [*lines, *(f"  likely cause, {change}" for change in plugin_changes)]


def _span(records: Sequence[TaskRecord]) -> str:
    return records[0].id if len(records) == 1 else f"{records[0].id} to {records[-1].id}"


def _changes(record: TaskRecord) -> str:
    """Numbers of tensors that changed, or that are read only now or no longer."""
    parts = []
    if record.changed:
        text = f"{len(record.changed)} of {len(record.tensors)} tensors"
        measured = {name: change for name, change in record.changed.items() if change is not None}
        if measured:
            name, change = max(measured.items(), key=lambda item: item[1].relative)
            text += f", largest change {_size(change)} in {name}"
        parts.append(text)
    if record.newly_read:
        parts.append(f"{len(record.newly_read)} tensors newly read")
    if record.no_longer_read:
        parts.append(f"{len(record.no_longer_read)} tensors no longer read")
    return "; ".join(parts) or "no tensor"


def _outputs(probes: Probes) -> str:
    return "are bit-identical" if probes.same else f"changed by up to {_size(probes.change)}"


def _size(change: Change) -> str:
    return f"{change.absolute:.3g} ({100 * change.relative:.3g} % of the largest value)"


_KEYS_OF_FORMAT_1 = {
    "learnt": "trained",
    "ground": "scope",
    "moved": "changed",
    "read_anew": "newly_read",
    "outline": "sketch",
}
_VERDICTS_OF_FORMAT_1 = {
    "nothing was learnt after it": LAST,
    "no task was learnt after another": NOTHING_LATER,
}
_SCOPES_OF_FORMAT_1 = {"everything": ALL_TENSORS, "what is read": TENSORS_READ}


def _from_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys and verdicts of format 1, as sidetune 0.1 wrote them, in those of this format."""
    certificate = _translate(values)
    if isinstance(certificate.get("tasks"), list):
        certificate["tasks"] = [
            _translate(task) if isinstance(task, Mapping) else task for task in certificate["tasks"]
        ]
    return certificate


def _translate(values: Mapping[str, Any]) -> dict[str, Any]:
    translated = {_KEYS_OF_FORMAT_1.get(key, key): value for key, value in values.items()}
    for key, texts in (("verdict", _VERDICTS_OF_FORMAT_1), ("scope", _SCOPES_OF_FORMAT_1)):
        text = translated.get(key)
        if isinstance(text, str):
            translated[key] = texts.get(text, text)
    return translated


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
