"""Verdicts follow from the fields of a record, and no report repeats a claim that R contradicts."""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest

from sidetune_core.certificate import record, report_lines, verdicts
from sidetune_core.certificate.record import Certificate, Change, Probes, Stage, TaskRecord
from sidetune_core.certificate.statements import STATEMENT

NONE = Change(0.0, 0.0)
SOUND = TaskRecord(
    id="t0",
    after=1,
    verdict=verdicts.ZERO,
    scope=verdicts.ALL_TENSORS,
    tensors={"base.weight": "00"},
    changed={},
    newly_read=[],
    no_longer_read=[],
    probes=Probes("probes/t0.safetensors", "00", 8, True, NONE),
    sketch=None,
    measured=[0.5, 0.5],
)
LAST = attrs.evolve(SOUND, id="t1", after=2, verdict=verdicts.LAST, measured=[0.5])


def certificate(first: TaskRecord) -> Certificate:
    verdict = verdicts.overall(["t0", "t1"], [first, LAST])
    stages = [Stage(["t0"], []), Stage(["t1"], [])]
    return Certificate(STATEMENT, verdict, ["t0", "t1"], [first, LAST], stages, {})


def probed(**fields: object) -> Probes:
    return attrs.evolve(SOUND.probes, **fields)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, verdicts.ZERO),
        ({"measured": [0.5, 0.25]}, verdicts.VALUES_DIFFER),
        ({"measured": [0.0, -0.0]}, verdicts.VALUES_DIFFER),
        ({"measured": [0.5, None]}, verdicts.NOT_FINITE),
        ({"probes": probed(finite=False)}, verdicts.NOT_FINITE),
        ({"probes": probed(cause=verdicts.BATCH)}, verdicts.NOT_REPRODUCIBLE),
        ({"probes": probed(same=False)}, verdicts.NOT_REPRODUCIBLE),
        ({"probes": probed(cause=verdicts.CONDITIONS, same=False)}, verdicts.OTHER_CONDITIONS),
        ({"changed": {"base.weight": NONE}, "measured": [0.5, 0.25]}, verdicts.NOT_ZERO),
        ({"newly_read": ["x"], "probes": probed(cause=verdicts.BATCH)}, verdicts.NOT_ZERO),
    ],
)
def test_the_verdict_follows_from_tensors_then_outputs_then_r(
    change: dict[str, object], verdict: str
) -> None:
    assert verdicts.judge(attrs.evolve(SOUND, **change), later=True) == verdict


def test_nothing_is_claimed_where_no_task_came_later() -> None:
    assert verdicts.judge(attrs.evolve(SOUND, measured=[0.5, 0.25]), later=False) == verdicts.LAST


@pytest.mark.parametrize(("worse", "better"), [*pairwise(verdicts.WORST_FIRST)])
def test_the_verdict_on_a_run_is_the_worst_of_its_tasks(worse: str, better: str) -> None:
    records = [attrs.evolve(SOUND, id=id, verdict=verdict) for id, verdict in (("a", better), ("b", worse))]
    assert verdicts.overall(["a", "b"], records) == worse


def test_a_claim_that_r_contradicts_is_not_repeated() -> None:
    lines = report_lines.certificate_lines(certificate(SOUND), columns={"t0": [0.5, 0.25]})
    assert lines[0] == "Zero forgetting is not claimed, because R contradicts it:"
    assert "t0: R differs, from 0.25 to 0.5" in lines[1]


def test_a_claim_that_r_agrees_with_is_printed() -> None:
    (line,) = report_lines.certificate_lines(certificate(SOUND), columns={"t0": [0.5, 0.5]})
    assert line.startswith("Forgetting is zero by construction for t0")


def test_the_likely_cause_is_in_the_lines() -> None:
    doubtful = attrs.evolve(SOUND, verdict=verdicts.NOT_REPRODUCIBLE, probes=probed(cause=verdicts.RANDOM))
    assert verdicts.RANDOM in report_lines.certificate_lines(certificate(doubtful))[1]


def test_changed_conditions_are_in_the_lines() -> None:
    probes = probed(cause=verdicts.CONDITIONS, same=False)
    rounded = attrs.evolve(
        SOUND, verdict=verdicts.OTHER_CONDITIONS, probes=probes, conditions=["threads 4 → 2"]
    )
    (_, line) = report_lines.certificate_lines(certificate(rounded))
    assert line.endswith(f"{verdicts.CONDITIONS}: threads 4 → 2")


def by_id(*records: record.TaskRecord) -> dict[str, record.TaskRecord]:
    return {one.id: one for one in records}


def test_a_warning_is_not_for_changed_conditions() -> None:
    rounded = attrs.evolve(SOUND, probes=probed(cause=verdicts.CONDITIONS))
    doubtful = attrs.evolve(LAST, probes=probed(cause=verdicts.BATCH))
    assert len(report_lines.new_warnings(by_id(rounded, doubtful), [LAST.id])) == 1


def test_a_gap_in_r_is_in_the_lines() -> None:
    gap = attrs.evolve(SOUND, verdict=verdicts.NOT_FINITE, measured=[0.5, None])
    assert report_lines.certificate_lines(certificate(gap))[1] == f"  t0: {verdicts.NOT_FINITE} (R has gaps)"


def test_a_warning_is_for_the_first_task_that_is_not_reproducible_only() -> None:
    doubtful = attrs.evolve(LAST, probes=probed(cause=verdicts.BATCH))
    assert len(report_lines.new_warnings(by_id(SOUND, doubtful), [LAST.id])) == 1
    both = by_id(attrs.evolve(SOUND, probes=doubtful.probes), doubtful)
    assert report_lines.new_warnings(both, [LAST.id]) == []
