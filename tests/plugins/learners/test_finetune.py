"""Fine-tuning and the base's batch norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, Features, Inputs
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.testing import check_plugin
from sidetune_core.testing.state import changed, snapshot

INPUTS = {"x": torch.randn(5, 6, generator=torch.Generator().manual_seed(1))}
OPTIONS = [{"norm": False, "batchnorm": "frozen"}, {"batchnorm": "per-task"}]
"""The defaults are checked with those of all plugins (tests/core/testing/test_plugin.py)."""


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    assert [finding for finding in check_plugin("learner", "finetune", options) if not finding.passed] == []


class Nested(Base):
    """(6,) to (16,): batch norm, a submodule with dropout, and a parameter of the base itself."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape = (16,)
        self.shift = nn.Parameter(torch.zeros(16))
        self.first = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16))
        self.second = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 16))

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.second(self.first(inputs["x"])) + self.shift)


# Frozen


def test_frozen_statistics_are_the_same_after_every_step(world: Any) -> None:
    learner = world.learner("finetune", batchnorm="frozen")
    before = {key: value.clone() for key, value in learner.base.norm.named_buffers()}
    for task in world.tasks[:2]:
        world.start(learner, task)
        for _ in world.steps(learner, task):
            assert all(torch.equal(value, before[key]) for key, value in learner.base.norm.named_buffers())


@pytest.mark.parametrize("batchnorm", ["frozen", "trained"])
def test_every_weight_of_the_base_is_trained(batchnorm: str, world: Any) -> None:
    learner = world.learner("finetune", base=Nested, batchnorm=batchnorm)
    before = snapshot(learner.base)
    world.start(learner, world.tasks[0])
    world.train(learner, world.tasks[0])
    assert {key for key, _ in learner.base.named_parameters()} <= set(changed(before, snapshot(learner.base)))


@pytest.mark.parametrize("batchnorm", ["frozen", "per-task"])
def test_dropout_of_the_base_is_in_training_mode_and_its_batch_norm_is_not(
    batchnorm: str, world: Any
) -> None:
    learner = world.learner("finetune", base=Nested, batchnorm=batchnorm)
    world.start(learner, world.tasks[0])
    assert learner.base.second[0].training
    assert not learner.base.first[1].training


def test_frozen_statistics_are_used_in_training(world: Any) -> None:
    learner = world.learner("finetune", side=False, merger=None, batchnorm="frozen")
    world.start(learner, world.tasks[0])
    single, batch = learner({"x": INPUTS["x"][:1]}, "t0"), learner(INPUTS, "t0")
    torch.testing.assert_close(single, batch[:1])


# Per task


def per_task(world: Any, tasks: int) -> Any:
    learner = world.learner("finetune", side=False, merger=None, batchnorm="per-task")
    for task in world.tasks[:tasks]:
        world.start(learner, task)
        world.train(learner, task)
    return learner


def test_an_old_task_s_outputs_depend_on_its_own_statistics_alone(world: Any) -> None:
    learner = per_task(world, 2)
    before = learner(INPUTS, "t0"), learner(INPUTS, "t1")
    learner.norms["t0"][0].running_var.mul_(2 + torch.arange(16.0))
    assert not torch.equal(learner(INPUTS, "t0"), before[0])
    assert torch.equal(learner(INPUTS, "t1"), before[1])


def test_a_later_task_does_not_change_an_old_one_s_norms(world: Any) -> None:
    learner = per_task(world, 1)
    before = snapshot(learner.norms["t0"])
    world.start(learner, world.tasks[1])
    for _ in world.steps(learner, world.tasks[1]):
        assert changed(before, snapshot(learner.norms["t0"])) == []


def test_each_task_starts_with_the_pretrained_norms(world: Any, pretrained: Any) -> None:
    learner = world.learner("finetune", base=pretrained, batchnorm="per-task")
    world.start(learner, world.tasks[0])
    world.train(learner, world.tasks[0])
    world.start(learner, world.tasks[1])
    for key, value in pretrained().norm.state_dict().items():
        assert torch.equal(learner.base.norm.state_dict()[key], value)
        assert torch.equal(learner.norms["t1"][0].state_dict()[key], value)


def test_the_base_has_its_own_norms_back_after_a_pass(world: Any) -> None:
    learner = per_task(world, 1)
    own = learner.base.norm
    learner(INPUTS, "t0")
    assert learner.base.norm is own


def test_the_base_has_its_own_norms_back_after_an_error(world: Any) -> None:
    learner = per_task(world, 1)
    own = learner.base.norm
    with pytest.raises(KeyError):
        learner({}, "t0")
    assert learner.base.norm is own


def test_on_the_first_task_its_norms_are_trained_as_the_base_s_would_be(world: Any) -> None:
    learner, plain = per_task(world, 1), world.learner("finetune", side=False, merger=None)
    world.start(plain, world.tasks[0])
    world.train(plain, world.tasks[0])
    assert torch.equal(learner(INPUTS, "t0"), plain(INPUTS, "t0"))
    assert all(
        torch.equal(value, plain.base.norm.state_dict()[key])
        for key, value in learner.norms["t0"][0].state_dict().items()
    )


def test_a_frozen_base_with_norms_for_each_task_is_not_served_from_the_cache(world: Any) -> None:
    learner = per_task(world, 2)
    expected = [learner(INPUTS, task) for task in ("t0", "t1")]
    FeatureCache(limit=2**20, taps=None, info=lambda _: None).attach(learner, "fp32")
    assert learner.base.cache is not None
    inputs = Inputs(INPUTS, torch.arange(5))
    assert all(
        torch.equal(learner(inputs, task), old) for task, old in zip(("t0", "t1"), expected, strict=True)
    )


def test_starting_the_tasks_again_makes_a_learner_that_takes_the_state(world: Any) -> None:
    learner = per_task(world, 2)
    again = world.learner("finetune", side=False, merger=None, batchnorm="per-task")
    for task in world.tasks[:2]:
        world.start(again, task)
    again.load_state_dict(learner.state_dict(), strict=True)
    again.eval()
    assert all(torch.equal(again(INPUTS, task), learner(INPUTS, task)) for task in ("t0", "t1"))
