"""Dense side-tuning: a task uses the sides of all earlier tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sidetune_core.testing import check_plugin
from sidetune_core.testing.state import changed, snapshot

INPUTS = {"x": torch.randn(5, 6, generator=torch.Generator().manual_seed(1))}


@pytest.mark.parametrize("options", [{"norm": False}, {"dense": True, "begin": "base"}], ids=str)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    assert [finding for finding in check_plugin("learner", "sidetune", options) if not finding.passed] == []


def trained(world: Any, tasks: int, dense: bool = True, **how: Any) -> Any:
    learner = world.learner("sidetune", dense=dense, **how)
    for task in world.tasks[:tasks]:
        world.start(learner, task)
        world.train(learner, task)
    return learner


def fused(learner: Any, task: str) -> list[Sequence[Tensor]]:
    """The inputs of the task's merger for `INPUTS`."""
    seen: list[Sequence[Tensor]] = []
    with learner.mergers[task].register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        learner(INPUTS, task)
    return seen


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_merger_of_task_t_gets_t_plus_2_encodings_base_first_and_own_side_last(
    index: int, world: Any
) -> None:
    learner = trained(world, 3)
    (encodings,) = fused(learner, f"t{index}")
    features = learner.base(INPUTS)
    expected = [features.encoding, *(learner.sides[f"t{k}"](INPUTS, features) for k in range(index + 1))]
    assert len(encodings) == index + 2
    assert all(torch.equal(a, b) for a, b in zip(encodings, expected, strict=True))


def test_on_the_first_task_it_is_plain_side_tuning_bit_for_bit(world: Any) -> None:
    dense, plain = trained(world, 1), trained(world, 1, dense=False)
    assert changed(snapshot(dense), snapshot(plain)) == []
    assert torch.equal(dense(INPUTS, "t0"), plain(INPUTS, "t0"))


def test_earlier_sides_get_no_gradient_even_where_they_could(world: Any) -> None:
    learner = trained(world, 2)
    learner.requires_grad_(True).zero_grad()
    learner(INPUTS, "t1").sum().backward()
    assert all(parameter.grad is None for parameter in learner.sides["t0"].parameters())
    assert all(parameter.grad is not None for parameter in learner.sides["t1"].parameters())


@pytest.mark.parametrize("dense", [True, False])
def test_a_task_uses_earlier_sides_if_and_only_if_dense(dense: bool, world: Any) -> None:
    learner = trained(world, 2, dense=dense)
    before = learner(INPUTS, "t1")
    learner.sides["t0"].linear.bias.data.add_(1)
    assert torch.equal(learner(INPUTS, "t1"), before) != dense


def test_a_task_never_sees_a_later_side(world: Any) -> None:
    learner = trained(world, 2)
    before = learner(INPUTS, "t0")
    world.start(learner, world.tasks[2])
    world.train(learner, world.tasks[2])
    for task in ("t1", "t2"):
        learner.sides[task].linear.bias.data.add_(1)
    assert torch.equal(learner(INPUTS, "t0"), before)


def test_starting_the_tasks_again_makes_a_learner_that_takes_the_state(world: Any) -> None:
    learner, again = trained(world, 3), world.learner("sidetune", dense=True)
    for task in world.tasks:
        world.start(again, task)
    again.load_state_dict(learner.state_dict(), strict=True)
    again.eval()
    assert all(torch.equal(again(INPUTS, task.id), learner(INPUTS, task.id)) for task in world.tasks)
