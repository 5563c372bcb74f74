"""The verdicts on tasks and on a run, and the causes of outputs that are not reproducible."""

from __future__ import annotations

from collections.abc import Sequence

from sidetune_core.certificate.record import TaskRecord

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
