"""Whether the certificate of one task is what is recomputed for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from sidetune_core.certificate import probes
from sidetune_core.certificate.issue import State, compare
from sidetune_core.certificate.measured import Columns
from sidetune_core.certificate.probes import Replay, Stored
from sidetune_core.certificate.record import FORMAT, Change, Probes, TaskRecord
from sidetune_core.certificate.verdicts import CONDITIONS, OUTSIDE, ZERO, former_judge, is_constant, judge
from sidetune_core.errors import shorten
from sidetune_core.storage.series import Recorded


def task_mismatches(
    task: TaskRecord,
    before: Stored,
    replayed: Replay,
    columns: Columns,
    state: State,
    checkpoint: Recorded,
    format: int,
    exact: bool,
    changed: list[str],
    notes: list[str],
) -> Iterator[str]:
    """Where the certificate of one task differs from what is recomputed."""
    change = probes.change(before.output, replayed.output)
    if task.probes.same and not exact and change is not None and 0 < change.relative <= state.rounding:
        notes.append(
            f"{task.id}: outputs for its probes differ by {change.absolute:.3g} from the stored ones, which "
            "is as small as rounding"
        )
        replayed = attrs.evolve(replayed, output=before.output)
    rule = judge if format == FORMAT else former_judge
    measured = columns[task.id][task.after - 1 :]
    recomputed = compare(
        attrs.evolve(task, conditions=changed), before, replayed, measured, state, checkpoint.read, rule
    )
    recomputed = attrs.evolve(recomputed, changed=_with_dropped(task, recomputed, checkpoint))
    if format < FORMAT:
        yield from _unsupported_claims(task, recomputed, format)
        recomputed = attrs.evolve(
            recomputed,
            measured=task.measured,
            probes=attrs.evolve(recomputed.probes, finite=True, cause=""),
        )
    elif task.probes.cause == OUTSIDE and task.verdict != ZERO:
        notes.append(f"{task.id}: its outputs cannot be checked, since {recomputed.probes.cause or OUTSIDE}")
        recomputed = attrs.evolve(
            recomputed, probes=attrs.evolve(task.probes, examples=recomputed.probes.examples)
        )
        recomputed = attrs.evolve(recomputed, verdict=rule(recomputed, bool(state.later)), scope="")
    elif task.probes.cause == CONDITIONS and not exact and _is_rounding(change, changed, state):
        kept = attrs.evolve(recomputed.probes, same=task.probes.same, change=task.probes.change)
        recomputed = attrs.evolve(
            recomputed, probes=attrs.evolve(kept, cause=recomputed.probes.cause or CONDITIONS)
        )
        recomputed = attrs.evolve(recomputed, verdict=rule(recomputed, bool(state.later)), scope="")
    yield from _differences(task, recomputed, 0.0 if exact else state.rounding)


def _with_dropped(task: TaskRecord, recomputed: TaskRecord, checkpoint: Recorded) -> dict[str, Change | None]:
    """The recomputed changes, with the certificate's where ``--keep last`` has dropped the earlier tensor."""
    lost = {name for name, change in recomputed.changed.items() if change is None} & task.changed.keys()
    lost -= checkpoint.read(sorted(lost)).keys()
    return {
        name: task.changed[name] if name in lost else change for name, change in recomputed.changed.items()
    }


def _is_rounding(change: Change | None, conditions: Sequence[str], state: State) -> bool:
    """Whether outputs that changed under other conditions did so by no more than rounding."""
    return bool(conditions) and change is not None and change.relative <= state.rounding


def _unsupported_claims(task: TaskRecord, recomputed: TaskRecord, format: int) -> Iterator[str]:
    """Why a claim of a former format, which did not look at R or replay twice, is none."""
    if task.verdict != ZERO:
        return
    reasons = [recomputed.probes.cause] if recomputed.probes.cause else []
    if not is_constant(recomputed.measured):
        reasons.append("R differs or has gaps")
    if not recomputed.probes.finite:
        reasons.append("outputs for its probes are not finite")
    for reason in reasons:
        yield f"{task.id}: a certificate of format {format} claims '{ZERO}', but {reason}"


def _differences(certified: TaskRecord, recomputed: TaskRecord, tolerance: float) -> Iterator[str]:
    """Where the recomputed record of a task differs from the certificate's."""
    task = certified.id
    for field in ("verdict", "scope", "changed", "newly_read", "no_longer_read", "measured"):
        expected, actual = getattr(certified, field), getattr(recomputed, field)
        if expected != actual:
            yield (
                f"{task}: {field.replace('_', ' ')} is {_quote(expected)} in the certificate, but recomputed "
                f"as {_quote(actual)}"
            )
    if certified.processor and certified.conditions != recomputed.conditions:
        yield (
            f"{task}: the conditions that changed since are {_quote(certified.conditions)} in the "
            f"certificate, but {_quote(recomputed.conditions)} in the checkpoints"
        )
    before, now = certified.probes, recomputed.probes
    if before.examples != now.examples:
        yield f"{task}: the certificate has {before.examples} probes, but there are {now.examples}"
    if (before.finite, before.cause) != (now.finite, now.cause):
        yield (
            f"{task}: the certificate says that its outputs are {_health(before)}, but they are "
            f"{_health(now)}"
        )
    if before.change is None or now.change is None:
        agree = before.change == now.change
    else:
        agree = abs(before.change.relative - now.change.relative) <= tolerance
    if before.same != now.same or not agree:
        yield (
            f"{task}: outputs for its probes changed by {_absolute(before.change)} according to the "
            f"certificate, but by {_absolute(now.change)} when replayed"
        )


def _health(examined: Probes) -> str:
    if not examined.finite:
        return "not finite"
    return f"not reproducible ({examined.cause})" if examined.cause else "reproducible"


def _absolute(change: Change | None) -> str:
    return "an unknown amount" if change is None else f"{change.absolute:.3g}"


def _quote(value: Any) -> str:
    """A field of a record for a message."""
    return (
        shorten([str(entry) for entry in value]) or "nothing"
        if isinstance(value, dict | list)
        else f"'{value}'"
    )
