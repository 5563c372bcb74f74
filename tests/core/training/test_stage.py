"""Stages: whose turn it is, and where a run can go on."""

from __future__ import annotations

import attrs
import pytest

from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.interfaces.training import Phase, PhaseSteps
from sidetune_core.testing import sample
from sidetune_core.training.stage import Stage, batch_size

OPTIONS = TrainOptions(steps=3, batch_size=8, accumulate=2)


@pytest.fixture
def both() -> Stage:
    return Stage(sample.tasks())


def test_a_stage_is_named_after_its_first_and_last_task(both: Stage) -> None:
    first, last = both.tasks
    assert Stage([first]).name == first.id
    assert both.name == f"{first.id} to {last.id}"


def test_tasks_take_their_turns_and_each_has_had_its_batches(both: Stage) -> None:
    first, last = both.tasks
    assert [both.turn(step) for step in range(3)] == [first, last, first]
    for step in range(5):
        turns = [both.turn(earlier) for earlier in range(step)]
        assert both.batches_taken(step, OPTIONS) == {
            task.id: OPTIONS.accumulate * turns.count(task) for task in both.tasks
        }


def test_the_steps_of_a_stage_are_those_of_its_tasks(both: Stage) -> None:
    assert both.steps(OPTIONS) == 6
    epochs = attrs.evolve(OPTIONS, epochs=2.0)
    assert both.steps(epochs) == sum(round(2 * task.steps_per_epoch(16)) for task in both.tasks)


def test_a_run_goes_on_only_where_every_task_of_the_stage_can(
    both: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(both.last, "can_resume_at", lambda step, batch_size: step % 4 == 0, raising=False)
    assert [step for step in range(9) if both.can_resume_at(step, OPTIONS)] == [0, 1, 4, 5, 8]


def test_a_batch_has_at_most_all_training_examples(both: Stage) -> None:
    size = both.last.training_size()
    assert batch_size(both.last, attrs.evolve(OPTIONS, batch_size=size - 1)) == size - 1
    assert batch_size(both.last, attrs.evolve(OPTIONS, batch_size=2**24)) == size
    large = attrs.evolve(OPTIONS, batch_size=2**24, epochs=2.0)
    assert both.step(0, PhaseSteps(Phase(), 0, 8), 8, large).batch_size == size * OPTIONS.accumulate
    assert both.steps(large) == 2 * round(2.0 * max(1, round(1 / OPTIONS.accumulate)))
