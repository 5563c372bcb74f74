"""A network for each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sidetune_core
from sidetune_core.testing import check_plugin


def test_it_keeps_the_contract_without_a_norm() -> None:
    assert [
        finding for finding in check_plugin("learner", "independent", {"norm": False}) if not finding.passed
    ] == []


def test_every_task_has_base_side_merger_and_head_of_its_own(world: Any) -> None:
    learner = world.learner("independent")
    for task in world.tasks[:2]:
        trainable = world.start(learner, task)
        assert trainable == [
            learner.bases[task.id],
            learner.sides[task.id],
            learner.mergers[task.id],
            learner.heads[task.id],
        ]
    first, second = (
        {id(parameter) for parameter in learner.bases[task].parameters()} for task in ("t0", "t1")
    )
    assert not first & second


def test_without_a_side_a_task_has_base_and_head(world: Any) -> None:
    learner = world.learner("independent", side=False, merger=None)
    assert world.start(learner, world.tasks[0]) == [learner.bases["t0"], learner.heads["t0"]]


def test_every_base_starts_with_the_pretrained_weights(world: Any, pretrained: Any) -> None:
    learner = world.learner("independent", base=pretrained)
    world.start(learner, world.tasks[0])
    world.train(learner, world.tasks[0])
    world.start(learner, world.tasks[1])
    assert all(
        torch.equal(value, pretrained().state_dict()[key])
        for key, value in learner.bases["t1"].state_dict().items()
    )


def test_a_head_is_initialised_as_in_fine_tuning(world: Any) -> None:
    learner, shared = world.learner("independent"), world.learner("finetune")
    for each in (learner, shared):
        world.start(each, world.tasks[0])
    assert torch.equal(learner.heads["t0"].linear.weight, shared.heads["t0"].linear.weight)


@pytest.mark.parametrize("side", [True, False])
@pytest.mark.parametrize("baseline", ["joint", "finetune"])
def test_on_a_single_task_it_is_joint_training_and_fine_tuning_bit_for_bit(
    baseline: str, side: bool, chosen: Any, tmp_path: Path
) -> None:
    def run(learner: str) -> sidetune_core.Run:
        train = {"steps": 4, "batch": 8, "precision": "fp32"}
        chosen_side = chosen.side if side else None
        spec = sidetune_core.RunSpec(
            base=chosen.base,
            side=chosen_side,
            learner=learner,
            env={"name": "digits", "num_tasks": 1},
            train=train,
        )
        return sidetune_core.run(spec, tmp_path / learner)

    ours, theirs = run("independent"), run(baseline)
    assert ours.results.rows == theirs.results.rows
    state = {
        key.replace("s.t0.", ".", 1): value
        for key, value in ours.learner.state_dict().items()
        if not key.startswith("heads.")
    }
    shared = {
        key: value for key, value in theirs.learner.state_dict().items() if not key.startswith("heads.")
    }
    assert state.keys() == shared.keys()
    assert all(torch.equal(state[key], shared[key]) for key in state)
    assert torch.equal(ours.learner.heads["t0"].linear.weight, theirs.learner.heads["t0"].linear.weight)
