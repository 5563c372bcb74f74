"""Verdicts follow from the fields of a record, and no report repeats a claim that R contradicts."""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest

from sidetune_core.certificate import record
from sidetune_core.certificate.record import Certificate, Change, Probes, Stage, TaskRecord

NONE = Change(0.0, 0.0)
SOUND = TaskRecord(
    id="t0",
    after=1,
    verdict=record.ZERO,
    scope=record.ALL_TENSORS,
    tensors={"base.weight": "00"},
    changed={},
    newly_read=[],
    no_longer_read=[],
    probes=Probes("probes/t0.safetensors", "00", 8, True, NONE),
    sketch=None,
    measured=[0.5, 0.5],
)
LAST = attrs.evolve(SOUND, id="t1", after=2, verdict=record.LAST, measured=[0.5])


def certificate(first: TaskRecord) -> Certificate:
    verdict = record.overall(["t0", "t1"], [first, LAST])
    stages = [Stage(["t0"], []), Stage(["t1"], [])]
    return Certificate(record.STATEMENT, verdict, ["t0", "t1"], [first, LAST], stages, {})


def probed(**fields: object) -> Probes:
    return attrs.evolve(SOUND.probes, **fields)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, record.ZERO),
        ({"measured": [0.5, 0.25]}, record.VALUES_DIFFER),
        ({"measured": [0.0, -0.0]}, record.VALUES_DIFFER),
        ({"measured": [0.5, None]}, record.NOT_FINITE),
        ({"probes": probed(finite=False)}, record.NOT_FINITE),
        ({"probes": probed(cause=record.BATCH)}, record.NOT_REPRODUCIBLE),
        ({"probes": probed(same=False)}, record.NOT_REPRODUCIBLE),
        ({"probes": probed(cause=record.CONDITIONS, same=False)}, record.OTHER_CONDITIONS),
        ({"changed": {"base.weight": NONE}, "measured": [0.5, 0.25]}, record.NOT_ZERO),
        ({"newly_read": ["x"], "probes": probed(cause=record.BATCH)}, record.NOT_ZERO),
    ],
)
def test_the_verdict_follows_from_tensors_then_outputs_then_r(
    change: dict[str, object], verdict: str
) -> None:
    assert record.judge(attrs.evolve(SOUND, **change), later=True) == verdict


def test_nothing_is_claimed_where_no_task_came_later() -> None:
    assert record.judge(attrs.evolve(SOUND, measured=[0.5, 0.25]), later=False) == record.LAST


@pytest.mark.parametrize(("worse", "better"), [*pairwise(record.WORST_FIRST)])
def test_the_verdict_on_a_run_is_the_worst_of_its_tasks(worse: str, better: str) -> None:
    records = [attrs.evolve(SOUND, id=id, verdict=verdict) for id, verdict in (("a", better), ("b", worse))]
    assert record.overall(["a", "b"], records) == worse


def test_a_claim_that_r_contradicts_is_not_repeated() -> None:
    lines = record.certificate_lines(certificate(SOUND), columns={"t0": [0.5, 0.25]})
    assert lines[0] == "Zero forgetting is not claimed, because R contradicts it:"
    assert "t0: R differs, from 0.25 to 0.5" in lines[1]


def test_a_claim_that_r_agrees_with_is_printed() -> None:
    (line,) = record.certificate_lines(certificate(SOUND), columns={"t0": [0.5, 0.5]})
    assert line.startswith("Forgetting is zero by construction for t0")


def test_the_likely_cause_is_in_the_lines() -> None:
    doubtful = attrs.evolve(SOUND, verdict=record.NOT_REPRODUCIBLE, probes=probed(cause=record.RANDOM))
    assert record.RANDOM in record.certificate_lines(certificate(doubtful))[1]


def test_changed_conditions_are_in_the_lines() -> None:
    probes = probed(cause=record.CONDITIONS, same=False)
    rounded = attrs.evolve(
        SOUND, verdict=record.OTHER_CONDITIONS, probes=probes, conditions=["threads 4 → 2"]
    )
    (_, line) = record.certificate_lines(certificate(rounded))
    assert line.endswith(f"{record.CONDITIONS}: threads 4 → 2")


def by_id(*records: record.TaskRecord) -> dict[str, record.TaskRecord]:
    return {one.id: one for one in records}


def test_a_warning_is_not_for_changed_conditions() -> None:
    rounded = attrs.evolve(SOUND, probes=probed(cause=record.CONDITIONS))
    doubtful = attrs.evolve(LAST, probes=probed(cause=record.BATCH))
    assert len(record.new_warnings(by_id(rounded, doubtful), [LAST.id])) == 1


def test_a_gap_in_r_is_in_the_lines() -> None:
    gap = attrs.evolve(SOUND, verdict=record.NOT_FINITE, measured=[0.5, None])
    assert record.certificate_lines(certificate(gap))[1] == f"  t0: {record.NOT_FINITE} (R has gaps)"


def test_a_warning_is_for_the_first_task_that_is_not_reproducible_only() -> None:
    doubtful = attrs.evolve(LAST, probes=probed(cause=record.BATCH))
    assert len(record.new_warnings(by_id(SOUND, doubtful), [LAST.id])) == 1
    both = by_id(attrs.evolve(SOUND, probes=doubtful.probes), doubtful)
    assert record.new_warnings(both, [LAST.id]) == []
