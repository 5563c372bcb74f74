"""Probes are recorded as the learner got them, and compared up to rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import Inputs
from sidetune_core.certificate.probes import (
    EXAMPLES,
    ROUNDING,
    ProbeRecorder,
    Stored,
    agree,
    change,
    finite,
    replay,
)

INF = float("inf")
RANGE = torch.arange(10.0)[:, None]


def double(inputs: Inputs) -> Tensor:
    return 2 * inputs["x"]


def test_the_first_examples_of_several_batches_are_recorded_with_lengths_and_outputs() -> None:
    recorder = ProbeRecorder(double)
    for rows in (RANGE[:3], RANGE[3:]):
        recorder(Inputs({"x": rows}, lengths=rows[:, 0].long()))
    recorded = recorder.recorded
    assert recorded.output is not None
    assert recorded.lengths is not None
    assert recorded.inputs["x"].equal(RANGE[:EXAMPLES])
    assert recorded.lengths.equal(torch.arange(EXAMPLES))
    assert recorded.output.equal(2 * RANGE[:EXAMPLES])


def test_the_context_of_a_recurrent_policy_is_recorded_and_stored(tmp_path: Path) -> None:
    recorder = ProbeRecorder(double)
    for rows in (RANGE[:3], RANGE[3:]):
        recorder(Inputs({"x": rows}, context={"state": 3 * rows}))
    inputs = recorder.recorded.as_inputs()
    assert inputs.context["state"].equal(3 * RANGE[:EXAMPLES])
    path = tmp_path / "t0.safetensors"
    Stored(dict(inputs), inputs["x"], context=inputs.context).write(path)
    assert Stored.read(path).as_inputs().context["state"].equal(inputs.context["state"])


def test_replaying_a_small_test_split_records_nothing_more() -> None:
    recorder = ProbeRecorder(double)
    recorder(Inputs({"x": RANGE[:2]}))
    replay(nn.Linear(1, 1), recorder.predict, recorder.recorded.as_inputs(), 0.0, "t0")
    assert len(recorder.recorded) == 2


def test_batches_of_other_shapes_are_left_out() -> None:
    recorder = ProbeRecorder(double)
    recorder(Inputs({"x": torch.ones(2, 3)}))
    recorder(Inputs({"x": torch.ones(2, 4)}))
    assert recorder.recorded.inputs["x"].shape == (2, 3)


def test_stored_probes_come_back(tmp_path: Path) -> None:
    path = tmp_path / "t0.safetensors"
    Stored({"x": RANGE}, RANGE, torch.arange(10), 2 * RANGE).write(path)
    stored = Stored.read(path)
    assert stored.evaluated is not None
    assert stored.as_inputs().lengths is not None
    assert stored.evaluated.equal(2 * RANGE)


@pytest.mark.parametrize("precision", ROUNDING)
def test_rounding_depends_on_the_precision(precision: str) -> None:
    rounding = ROUNDING[precision]
    assert agree(RANGE, RANGE * (1 + rounding / 2), rounding)
    assert not agree(RANGE, RANGE * (1 + 2 * rounding), rounding)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ([[1.0, -INF]], True),
        ([[1.0, INF]], False),
        ([[1.0, float("nan")]], False),
        ([[-INF, -INF], [0.0, 1.0]], False),
    ],
    ids=["masked class", "inf", "nan", "nothing but masked classes"],
)
def test_outputs_are_finite_if_each_example_has_a_number(output: list[list[float]], expected: bool) -> None:
    assert finite(torch.tensor(output)) is expected


def test_masked_classes_do_not_count_as_a_change() -> None:
    masked = torch.tensor([[1.0, -INF]])
    measured = change(masked, masked + 0.5)
    assert measured is not None
    assert (measured.absolute, measured.relative) == (0.5, 0.5)


def test_a_change_that_is_not_finite_is_none() -> None:
    assert change(torch.ones(1), torch.full((1,), INF)) is None
