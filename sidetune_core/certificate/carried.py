"""Values of R that are those of the row before, since nothing that the task reads had changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from sidetune_core.certificate.record import Certificate
from sidetune_core.certificate.statements import CARRIED, STATEMENT, UNCHANGED_ROWS
from sidetune_core.config.history import same
from sidetune_core.config.identity import Identity, condition_changes
from sidetune_core.errors import shorten
from sidetune_core.storage.evaluations import UNCHANGED_SINCE, Evaluations, read_evaluations
from sidetune_core.storage.run_folder import RunFolder

Identities = Mapping[int, Identity | None]
"""Of a run after each stage, by number of trained tasks."""


def statement(folder: RunFolder) -> str:
    """The statement of a run's certificate, which says how values of R that were not measured came about."""
    evaluations = read_evaluations(folder)
    carried = CARRIED if any(UNCHANGED_SINCE in line for line in evaluations.lines) else ""
    return STATEMENT + carried + (UNCHANGED_ROWS if evaluations.unchanged else "")


def check_carried(folder: RunFolder, certificate: Certificate, identities: Identities) -> Iterator[str]:
    """Whether each value that was carried over is the one that was measured, and nothing that it depends on
    had changed in between.

    Args:
        folder: of the run.
        certificate: of the run; what it says about stages was checked against the checkpoints.
        identities: of the run.
    """
    evaluations = read_evaluations(folder)
    yield from _check_rows(evaluations, certificate, identities)
    yield from _check_former(evaluations, certificate, identities)


def _check_rows(evaluations: Evaluations, certificate: Certificate, identities: Identities) -> Iterator[str]:
    """The rows with values of the row before."""
    ends = accumulate(len(stage.tasks) for stage in certificate.stages)
    stages = {end - 1: stage for end, stage in zip(ends, certificate.stages, strict=True)}
    readers = dict[str, list[str]]()
    for record in certificate.tasks:
        for name in (*record.all_tensors, *record.newly_read):
            readers.setdefault(name, []).append(record.id)
    firsts = {record.id: record.after - 1 for record in certificate.tasks}
    measured = {(line.get("after"), str(line.get("task"))) for line in evaluations.lines}
    for row in sorted(evaluations.unchanged):
        values = f"values in row {row} of R were carried over from row {row - 1}"
        if row not in stages or row - 1 not in stages:
            yield f"{values}, but one of them was not trained"
            continue
        read = {task: name for name in stages[row].changed for task in readers.get(name, ())}
        wrong = sorted(task for task in read if firsts[task] < row and (row, task) not in measured)
        if wrong:
            changed = shorten(sorted({read[task] for task in wrong}))
            yield f"{shorten(wrong)}: {values}, but training changed {changed} in between"
        if others := _other_conditions(identities, row, row + 1):
            yield f"{values}, which was measured under other conditions: {others}"


def _check_former(
    evaluations: Evaluations, certificate: Certificate, identities: Identities
) -> Iterator[str]:
    """The values that an earlier version carried over to an extension."""
    lines = evaluations.lines
    measured = {_key(line): line for line in lines if UNCHANGED_SINCE not in line}
    tensors = {record.id: record.tensors.keys() for record in certificate.tasks}
    firsts = {record.id: record.after - 1 for record in certificate.tasks}
    ends = accumulate(len(stage.tasks) for stage in certificate.stages)
    changed = {end - 1: set(stage.changed) for end, stage in zip(ends, certificate.stages, strict=True)}
    reported = set[str]()
    for line in lines:
        if UNCHANGED_SINCE not in line:
            continue
        since, row, task = line[UNCHANGED_SINCE], line.get("after"), str(line.get("task"))
        value = f"the value of {task} on split {line.get('split')} in row {row} of R"
        origin = measured.get((since, task, line.get("split")))
        if type(since) is not int or type(row) is not int or not firsts.get(task, row) <= since < row:
            problem = f"{value} cannot have been carried over from row {since}"
        elif origin is None or not same(origin.get("figures"), line.get("figures")):
            problem = f"{value} is not that of row {since}, from which it was carried over"
        elif wrong := sorted(
            tensors[task] & set().union(*(changed.get(index, set()) for index in range(since + 1, row + 1)))
        ):
            problem = (
                f"{task}: its values in row {row} of R were carried over from row {since}, but training "
                f"changed {shorten(wrong)} in between"
            )
        elif others := _other_conditions(identities, since + 1, row + 1):
            problem = (
                f"{task}: its values in row {row} of R were carried over from row {since}, which was "
                f"measured under other conditions: {others}"
            )
        else:
            continue
        if problem not in reported:
            reported.add(problem)
            yield problem


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line.get("after"), line.get("task"), line.get("split")


def _other_conditions(identities: Identities, first: int, last: int) -> str:
    before, now = identities.get(first), identities.get(last)
    return ", ".join(condition_changes(before, now)) if before is not None and now is not None else ""
