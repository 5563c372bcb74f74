"""What a report says of a certificate, and what a run warns of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sidetune_core.certificate.certificate_file import FILE
from sidetune_core.certificate.record import Certificate, Change, Probes, TaskRecord
from sidetune_core.certificate.verdicts import (
    ALL_TENSORS,
    CONDITIONS,
    INCOMPLETE,
    LAST,
    NOT_FINITE,
    NOT_REPRODUCIBLE,
    NOT_ZERO,
    OTHER_CONDITIONS,
    VALUES_DIFFER,
    ZERO,
    is_constant,
)


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
