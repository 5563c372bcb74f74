"""The contents of ``certificate.json``: what earlier tasks depend on, and whether later tasks changed it.

`issue.certify` computes them after each stage of the stream; `verify.verify` checks them later from the run
folder.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import cattrs
import cattrs.errors

from sidetune_core.errors import RunError
from sidetune_core.io.files import check_shapes
from sidetune_core.storage.run_files import CERTIFICATE_LOG
from sidetune_core.storage.run_folder import RunFolder

FILE = "certificate.json"

LOG = CERTIFICATE_LOG
"""The file to which each stage appends what it adds to the certificate (see `log`)."""

FORMAT = 3
"""Version of the keys. Files of format 1 lack the key ``format``; `read_certificate` translates them. Format
2 lacks what was measured, and replays in other batches and with another seed."""

STATEMENT = (
    "For each task, 'tensors' lists every parameter and buffer that PyTorch read while the task's stored "
    "probes passed through the learner right after the task was trained, with its SHA-256 at that time "
    "(over name, type, shape and bytes). 'now' lists the SHA-256 of every tensor of the learner after the"
    " last stage. 'measured' lists the task's column of R, from the row after its training on. Zero by "
    "construction means: the same tensors are read now, all of them are bit-identical, and so are the "
    "outputs for the probes and all measured values; the probes have these outputs also with another "
    "random seed and, up to rounding, in smaller batches in another order and in the batches of the "
    "evaluation. With scope 'all tensors', no existing tensor has changed at all, whichever path an input"
    " takes. With scope 'tensors read', the claim covers the path of the probes only; in a network that "
    "routes inputs, other inputs may take another path. Proved are the hashes, the outputs for eight "
    "stored examples of each task, and that the recorded values are equal. Not proved: outputs for other "
    "inputs, if the learner keeps state outside of parameters and buffers that shows neither in the "
    "probes nor in R; the same bits on another machine, with other libraries or another number of "
    "threads; and that nobody rewrote the whole folder. A learner with unchanged tensors whose outputs "
    "are not reproducible, or whose measured values differ all the same, as with sampled actions, gets no"
    " claim; the reason is listed. 'stages' lists, for each stage of the stream, the existing tensors "
    "that it changed; 'files' the SHA-256 of task cards, documents and visualisations."
)

CARRIED = (
    " Values of R that eval.jsonl marks with 'unchanged_since' were not measured: they were carried over from"
    " the row of that number, because the task read the same tensors with the same bits in both rows, its "
    "stored probes had the same outputs, and machine, precision, versions and threads were the same."
)
"""What the statement has besides where tasks were added to a finished run and earlier ones were not evaluated
once more."""

SAMPLED = (
    " This certificate is that of a run before its last stage: after its latest stages, only the probes of "
    "tasks that read a changed tensor, and of a few others in turn, were replayed; the hashes cover all "
    "tasks."
)
"""What the statement has besides where the certificate is folded from ``certificate.jsonl``."""

UNCHANGED_ROWS = (
    " Where a line of eval.jsonl has 'unchanged', tasks trained before that row that have no line in it were"
    " not evaluated once more and have the values of the row before: no tensor that such a task reads changed"
    " between the two rows, neither one that its probes read nor one that only its first evaluation read "
    "('read_in_evaluation'), its stored probes had reproducible outputs, and machine, precision, versions and"
    " threads were the same. In each such row one of these tasks was evaluated all the same and had the same"
    " values bit for bit, if its data was there."
)
"""What the statement has besides where values are those of the row before."""

FORMER_STATEMENTS = {
    1: "ad031fc2a5813613881ed50a9e8fb837ce721ad3cc5211110dae06eecbbf2fc6",
    2: "5020a70beaed9b93a1c9ded9faa9419b576f5b8d7c73686e74ed1d502b816577",
}
"""SHA-256 of the statements of former formats."""

ZERO = "zero by construction"
NOT_ZERO = "not zero by construction"
NOT_REPRODUCIBLE = "tensors unchanged, outputs not reproducible"
NOT_FINITE = "not every output is finite, so nothing is claimed"
VALUES_DIFFER = "tensors and outputs for probes unchanged, measured values differ"
OTHER_CONDITIONS = "tensors unchanged, outputs differ by rounding under other conditions"
LAST = "no task was trained after it"
NOTHING_LATER = "no task was trained after another"
INCOMPLETE = "some tasks have no record"
WORST_FIRST = (NOT_ZERO, NOT_FINITE, NOT_REPRODUCIBLE, VALUES_DIFFER, OTHER_CONDITIONS, ZERO)

RANDOM = "outputs depend on random numbers (dropout, sampling)"
BATCH = (
    "outputs depend on the other examples of the batch, on its size or on their order (a norm in training "
    "mode, other batch statistics)"
)
EVALUATION_TRAINS = "a forward pass in evaluation changes parameters or buffers"
OUTSIDE = (
    "outputs depend on state outside of parameters and buffers (an attribute, a counter, a generator of its "
    "own, the time)"
)
CONDITIONS = "the run continued under other conditions, which change rounding"

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
    change: Change | None
    """None where it cannot be measured: outputs have another shape, or are not finite."""
    finite: bool = True
    """Whether the outputs were numbers, and still are."""
    cause: str = ""
    """Why the outputs are not reproducible: `RANDOM`, `BATCH`, `EVALUATION_TRAINS`, `OUTSIDE` or
    `CONDITIONS`; empty if they are."""


MAX_CLASSES = 2**17
"""Of a task whose head is built to check a certificate."""


@attrs.frozen
class TaskSketch:
    """A classification task without its data: enough to rebuild its learner."""

    title: str
    inputs: dict[str, list[int]]
    classes: int

    def __attrs_post_init__(self) -> None:
        """Nothing of an absurd size is allocated to check a certificate."""
        check_shapes(self.inputs)
        if not 0 < self.classes <= MAX_CLASSES:
            raise ValueError(f"a task cannot have {self.classes} classes")


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
    """Those of `tensors` that changed; None where the tensor or its checkpoint is missing, or the change is
    not finite."""
    newly_read: list[str]
    """Tensors that are read now and were not read right after the task was trained."""
    no_longer_read: list[str]
    probes: Probes
    sketch: TaskSketch | None
    """None where only the env can make the task's head."""
    measured: list[float | None] = attrs.field(factory=list)
    """The task's metric on the test split after its stage and after each later one; None where it was not
    finite. Empty in formats 1 and 2."""
    processor: str = ""
    """Of the computer that trained the task; empty where it is not known."""
    conditions: list[str] = attrs.field(factory=list)
    """What changed since then in what decides on rounding: machine, precision, versions, threads (see
    `conditions.History`)."""
    read_in_evaluation: dict[str, str] = attrs.field(factory=dict)
    """Tensors that the first evaluation after the task's stage read and its probes did not, each with its
    SHA-256 at that time: those that a learner routes only other inputs through. The file lacks the key where
    there are none, as in certificates of earlier versions."""

    @property
    def all_tensors(self) -> dict[str, str]:
        """What the task read right after it was trained, for its probes or in its evaluation."""
        return self.tensors | self.read_in_evaluation


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
    files: dict[str, str] = attrs.field(factory=dict)
    """SHA-256 of task cards, documents and visualisations, by path in the run folder."""
    processor: str = ""
    """Of the computer that issued the certificate; empty where it is not known."""
    format: int = FORMAT


def judge(record: TaskRecord, later: bool) -> str:
    """The verdict on one task, from the other fields of its record."""
    if not later:
        return LAST
    if not tensors_unchanged(record):
        return NOT_ZERO
    if not record.probes.finite or None in record.measured:
        return NOT_FINITE
    if record.probes.cause == CONDITIONS:
        return OTHER_CONDITIONS
    if record.probes.cause or not record.probes.same:
        return NOT_REPRODUCIBLE
    return ZERO if is_constant(record.measured) else VALUES_DIFFER


def former_judge(record: TaskRecord, later: bool) -> str:
    """The verdict by the rules of formats 1 and 2, which did not look at R."""
    if not later:
        return LAST
    return ZERO if record.probes.same and tensors_unchanged(record) else NOT_ZERO


def tensors_unchanged(record: TaskRecord) -> bool:
    """Whether a task still reads the same tensors, with the same bits."""
    return not (record.changed or record.newly_read or record.no_longer_read)


def is_constant(measured: Sequence[float | None]) -> bool:
    """Whether values were measured and are bit-identical; 0.0 and -0.0 differ, and a gap equals nothing."""
    if None in measured or len(set(measured)) != 1:
        return False
    return bool(measured[0]) or len({value.hex() for value in measured if value is not None}) == 1


def overall(trained: Sequence[str], records: Sequence[TaskRecord]) -> str:
    """The verdict on a run: the worst of its earlier tasks."""
    if [record.id for record in records] != list(trained):
        return INCOMPLETE
    earlier = {record.verdict for record in records} - {LAST}
    if unknown := earlier.difference(WORST_FIRST):
        return min(unknown)
    return min(earlier, key=WORST_FIRST.index, default=NOTHING_LATER)


def as_json(content: attrs.AttrsInstance) -> dict[str, Any]:
    """A certificate, or a line of ``certificate.jsonl``, as its file has it."""
    return attrs.asdict(content, filter=lambda field, value: value or field.name != "read_in_evaluation")


def write_certificate(folder: RunFolder, certificate: Certificate) -> None:
    """Write ``certificate.json`` atomically."""
    folder.write_json(FILE, as_json(certificate))


def read_certificate(folder: RunFolder) -> Certificate | None:
    """The certificate of a run, in any format; None where there is none yet.

    It is that of ``certificate.json``, or folded from ``certificate.jsonl`` where that is further.

    Raises:
        RunError: a file is damaged, or a newer version of sidetune wrote it.
    """
    from sidetune_core.certificate.log import CertificateLog  # imports this module

    log = CertificateLog.read(folder)
    if log is None:
        return read_written(folder)
    written = read_written(folder)
    if written is not None and written.trained == log.trained:
        return written
    return log.certificate(folder)


def read_written(folder: RunFolder) -> Certificate | None:
    """The certificate in ``certificate.json``, perhaps of an earlier stage; None where there is none.

    Raises:
        RunError: the file is damaged, or a newer version of sidetune wrote it.
    """
    path = folder.path / FILE
    if not path.is_file():
        return None
    values = folder.read_json(FILE)
    if "format" not in values:
        values = _from_format_1(values) | {"format": 1}
    elif values["format"] not in (2, FORMAT):
        raise RunError(
            f"{path} has format {values['format']!r}, and this version of sidetune reads up to {FORMAT}"
        )
    try:
        return CONVERTER.structure(_without_infinite_changes(values), Certificate)
    except (cattrs.errors.BaseValidationError, cattrs.errors.StructureHandlerNotFoundError) as error:
        details = "; ".join(cattrs.transform_error(error))[:300]
        raise RunError(f"{path} is damaged: {details}") from error


def certificate_lines(
    certificate: Certificate,
    plugin_changes: Sequence[str] = (),
    columns: Mapping[str, Sequence[float | None]] | None = None,
) -> list[str]:
    """One line for the run, one for each task that later tasks changed, and the plugins that changed during
    the run, which may be the cause (see `plugin_record.segment_lines`).

    `columns` are those of R from the row after each task's training on: a claim that they contradict is not
    repeated.
    """
    if certificate.verdict == INCOMPLETE:
        return [f"Not certified: {INCOMPLETE} in {FILE}"]
    earlier = [record for record in certificate.tasks if record.verdict != LAST]
    if not earlier:
        return []
    contradicted = [
        f"  {record.id}: {_values_differ(columns[record.id])}, but {FILE} claims '{ZERO}'"
        for record in earlier
        if columns is not None and record.verdict == ZERO and not is_constant(columns[record.id])
    ]
    if contradicted:
        return ["Zero forgetting is not claimed, because R contradicts it:", *contradicted]
    if certificate.verdict == ZERO:
        everything = all(record.scope == ALL_TENSORS for record in earlier)
        unchanged = "any existing tensor" if everything else "a tensor that they read"
        return [
            f"Forgetting is zero by construction for {_span(earlier)}: no later task changed {unchanged}, "
            f"and R and the outputs for stored probes are bit-identical (hashes in {FILE}; check with "
            "sidetune verify)"
        ]
    if certificate.verdict == NOT_ZERO:
        lines = [f"Forgetting is not zero by construction; changes that later tasks made (all in {FILE}):"]
    else:
        lines = [f"Zero forgetting is not claimed (details in {FILE}):"]
    lines += [f"  {record.id}: {_finding(record)}" for record in earlier]
    return [*lines, *(f"  likely cause, {change}" for change in plugin_changes)]


def new_warnings(records: Mapping[str, TaskRecord], last: Collection[str]) -> list[str]:
    """A warning if the outputs for the tasks `last`, those of the last stage, are the first of all that are
    not reproducible.

    Args:
        records: of the tasks so far, by id, in order.
        last: ids of tasks.
    """
    if not any(_has_cause(records[id]) for id in last if id in records):
        return []
    first = next(record for record in records.values() if _has_cause(record))
    if first.id not in last:
        return []
    return [
        f"the learner's outputs for task {first.id} are not the same when {first.probes.examples} examples "
        f"are evaluated once more, so R depends on how it is evaluated: {first.probes.cause}"
    ]


def _has_cause(record: TaskRecord) -> bool:
    """Whether outputs for a task are not reproducible under the same conditions."""
    return record.probes.cause not in ("", CONDITIONS)


def _finding(record: TaskRecord) -> str:
    """What the certificate says about an earlier task."""
    if record.verdict == ZERO:
        return "nothing changed: zero by construction"
    if record.verdict == OTHER_CONDITIONS:
        return f"no tensor that it reads changed; {CONDITIONS}: {'; '.join(record.conditions)}"
    if record.verdict == NOT_REPRODUCIBLE:
        return f"{NOT_REPRODUCIBLE}; likely cause: {record.probes.cause}"
    if record.verdict == NOT_FINITE:
        where = "R has gaps" if record.probes.finite else "outputs for its probes are NaN or infinite"
        return f"{NOT_FINITE} ({where})"
    if record.verdict == VALUES_DIFFER:
        others = f", or {CONDITIONS}: {'; '.join(record.conditions)}" if record.conditions else ""
        return (
            f"no tensor that it reads changed, and outputs for its probes are bit-identical, but "
            f"{_values_differ(record.measured)}: its evaluation is not reproducible (sampled actions, "
            f"environments), or the learner answers other inputs differently{others}"
        )
    return f"{_changes(record)}; outputs for its probes {_outputs(record.probes)}"


def _values_differ(measured: Sequence[float | None]) -> str:
    values = [value for value in measured if value is not None]
    gaps = ", with gaps" if len(values) < len(measured) else ""
    return f"R differs, from {min(values):.6g} to {max(values):.6g}{gaps}" if values else "R has gaps only"


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
    if probes.same:
        return "are bit-identical"
    return f"changed by up to {_size(probes.change)}" if probes.change else "are not comparable or not finite"


def _size(change: Change) -> str:
    return f"{change.absolute:.3g} ({100 * change.relative:.3g} % of the largest value)"


def _without_infinite_changes(values: Any) -> Any:
    """JSON values of a certificate, with null for changes that earlier versions wrote as not finite."""
    if isinstance(values, Mapping):
        if values.keys() == {"absolute", "relative"} and not all(map(_is_finite, values.values())):
            return None
        return {
            key: value if key == "measured" else _without_infinite_changes(value)
            for key, value in values.items()
        }
    return [_without_infinite_changes(value) for value in values] if isinstance(values, list) else values


def _is_finite(value: Any) -> bool:
    return value is not None and (not isinstance(value, float) or math.isfinite(value))


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
    converter.register_structure_hook(float, lambda value, _: math.nan if value is None else float(value))
    converter.register_structure_hook_func(lambda kind: kind == list[float | None], _column)
    return converter


def _column(values: Any, _: Any) -> list[float | None]:
    """A column of R, of which a long run has very many values."""
    if not isinstance(values, list) or not {float, int, type(None)}.issuperset(map(type, values)):
        raise ValueError(f"expected a list of numbers, got {str(values)[:60]!r}")
    return [None if value is None else float(value) for value in values]


def _exactly(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, got {value!r}")
    return value


CONVERTER = _make_converter()
