"""Learning without forgetting: the teacher, the divergence from it, and fine-tuning as the limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import sidetune_core
from sidetune_core import api
from sidetune_core.api import Batch, Inputs, Order
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.testing import check_plugin
from sidetune_core.testing.state import changed, snapshot

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
INPUTS = {"x": X}
OPTIONS = [{"norm": False, "batchnorm": "frozen", "temperature": 0.5}, {"coef": 0.0}]
"""The defaults are checked with those of all plugins (tests/core/testing/test_plugin.py)."""


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    assert [finding for finding in check_plugin("learner", "lwf", options) if not finding.passed] == []


def trained(world: Any, tasks: int, name: str = "lwf", **how: Any) -> Any:
    learner = world.learner(name, **how)
    for task in world.tasks[:tasks]:
        world.start(learner, task)
        world.train(learner, task)
    return learner


def divergence(world: Any, learner: Any, task: str) -> Tensor:
    """The distillation loss of `INPUTS` as examples of a task."""
    batch = Batch(torch.arange(len(X)), Inputs({"x": X}), torch.zeros(len(X), dtype=torch.int64))
    chosen = next(one for one in world.tasks if one.id == task)
    value: Tensor = world.losses(learner, batch, chosen)["divergence"]
    return value


# The teacher


def test_there_is_no_teacher_and_no_distillation_in_the_first_task(world: Any) -> None:
    learner, task = world.learner("lwf"), world.tasks[0]
    world.start(learner, task)
    assert learner.teacher is None
    losses = world.losses(learner, next(task.train(None, Order(0, 8))), task)
    assert sorted(losses) == ["all", "loss"]


def test_the_teacher_predicts_as_the_network_did_before_the_task(world: Any) -> None:
    learner = trained(world, 2)
    before = [learner(INPUTS, task) for task in ("t0", "t1")]
    world.start(learner, world.tasks[2])
    world.train(learner, world.tasks[2])
    assert all(
        torch.equal(learner.teacher(INPUTS, task), old)
        for task, old in zip(("t0", "t1"), before, strict=True)
    )


def test_the_teacher_is_the_same_after_every_step(world: Any) -> None:
    learner = trained(world, 1)
    world.start(learner, world.tasks[1])
    before = snapshot(learner.teacher)
    for _ in world.steps(learner, world.tasks[1]):
        assert changed(before, snapshot(learner.teacher)) == []
        assert all(parameter.grad is None for parameter in learner.teacher.parameters())


def test_a_teacher_has_no_teacher(world: Any) -> None:
    learner = trained(world, 3)
    assert learner.teacher.teacher is None
    assert list(learner.teacher.heads) == ["t0", "t1"]


def test_cached_outputs_of_one_teacher_are_not_used_for_the_next(world: Any) -> None:
    cache = FeatureCache(limit=2**20, taps=None, info=lambda _: None)
    learner = world.learner("lwf")
    tables = []
    for task in world.tasks:
        FeatureCache.detach(learner)
        world.start(learner, task)
        cache.attach(learner, "fp32")
        assert learner.base.cache is None
        if learner.teacher is not None:
            tables.append(learner.teacher.base.cache)
            served = learner.teacher.base(api.Inputs(INPUTS, torch.arange(5)))
            computed = nn.Module.__call__(learner.teacher.base, INPUTS)
            assert torch.equal(served.encoding, computed.encoding)
        world.train(learner, task)
    assert tables[0] is not tables[1]


def test_a_run_gives_the_same_bytes_with_and_without_the_feature_cache(
    chosen: Any, image_archive: Path, tmp_path: Path
) -> None:
    def run(store: str) -> dict[str, Tensor]:
        env = {"name": "images", "archive": image_archive, "classes_per_task": 2}
        train = {
            "steps": 6,
            "batch": 12,
            "precision": "fp32",
            "store": store,
        }  # the second epoch starts in the fourth batch
        return sidetune_core.run(
            sidetune_core.RunSpec(base=chosen.base, learner="lwf", env=env, train=train), tmp_path / store
        ).learner.state_dict()

    memory, off = run("memory"), run("off")
    assert all(torch.equal(memory[key], off[key]) for key in off)


# The distillation loss


def outputs(learner: Any, task: str) -> NDArray[np.float64]:
    """The outputs for `X` in eval mode, by hand and in float64, without a side and without normalisation."""
    base, linear = learner.base, learner.heads[task].linear

    def to_numpy(value: Tensor) -> NDArray[np.float64]:
        return value.detach().double().numpy()

    x = to_numpy(X) @ to_numpy(base.linear.weight).T + to_numpy(base.linear.bias)
    x = (x - to_numpy(base.norm.running_mean)) / np.sqrt(to_numpy(base.norm.running_var) + 1e-5)
    x = x * to_numpy(base.norm.weight) + to_numpy(base.norm.bias)
    logits: NDArray[np.float64] = x @ to_numpy(linear.weight).T + to_numpy(linear.bias)
    return logits


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers: NDArray[np.float64] = np.exp(logits)
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize(("coef", "temperature"), [(1.0, 2.0), (3.0, 1.0), (0.5, 4.0)])
def test_it_is_the_divergence_computed_by_hand(coef: float, temperature: float, world: Any) -> None:
    learner = trained(world, 3, side=False, merger=None, norm=False, coef=coef, temperature=temperature)
    terms = []
    for task in ("t0", "t1"):
        before, now = (
            softmax(outputs(learner.teacher, task) / temperature),
            softmax(outputs(learner, task) / temperature),
        )
        terms.append((before * (np.log(before) - np.log(now))).sum(1).mean())
    assert max(terms) > 1e-4
    np.testing.assert_allclose(
        divergence(world, learner, "t2").item(), coef * temperature**2 * np.mean(terms), rtol=1e-4
    )


def test_of_independent_labels_it_is_the_mean_divergence_of_their_distributions(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(world.tasks[0]), "outputs", api.Outputs("binary", 2))
    learner = trained(world, 2, temperature=3.0)
    before, now = (
        torch.distributions.Bernoulli(logits=network(INPUTS, "t0") / 3)
        for network in (learner.teacher, learner)
    )
    expected = 9 * torch.distributions.kl_divergence(before, now).mean()
    assert float(expected) > 1e-4
    torch.testing.assert_close(divergence(world, learner, "t1"), expected, rtol=1e-3, atol=1e-6)


def test_its_gradient_is_that_of_the_cross_entropy_of_the_paper(world: Any) -> None:
    learner = trained(world, 2, side=False, merger=None, temperature=1.0)
    learner.base.requires_grad_(True)
    (ours,) = torch.autograd.grad(divergence(world, learner, "t1"), [learner.base.linear.weight])
    soft = learner.teacher(INPUTS, "t0").softmax(1)
    (theirs,) = torch.autograd.grad(
        nn.functional.cross_entropy(learner(INPUTS, "t0"), soft), [learner.base.linear.weight]
    )
    assert ours.abs().max() > 1e-4
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_it_is_zero_before_the_first_step(world: Any) -> None:
    learner = trained(world, 1)
    world.start(learner, world.tasks[1])
    learner.eval()
    assert divergence(world, learner, "t1").item() == pytest.approx(0, abs=1e-6)


# Limits


def test_with_coef_0_it_is_fine_tuning_bit_for_bit(world: Any) -> None:
    learner, plain = trained(world, 3, coef=0.0), trained(world, 3, "finetune")
    ours, theirs = learner.state_dict(), plain.state_dict()
    assert {key for key in ours if not key.startswith("teacher.")} == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_greater_coef_forgets_less(world: Any) -> None:
    def forgotten(coef: float) -> float:
        """KL of the old head's predictions after the second task from those before it, on its inputs."""
        learner = trained(world, 1, side=False, merger=None, batchnorm="frozen", coef=coef)
        inputs = next(world.tasks[1].train(None, api.Order(0, 20))).inputs
        before = learner(inputs, "t0").log_softmax(1)
        world.start(learner, world.tasks[1])
        world.train(learner, world.tasks[1], steps=30)
        after = learner(inputs, "t0").log_softmax(1)
        return nn.functional.kl_div(after, before, reduction="batchmean", log_target=True).item()

    assert forgotten(20.0) < forgotten(1.0) / 2 < forgotten(0.0) / 4


def test_the_old_heads_are_trained_too(world: Any) -> None:
    learner = trained(world, 1)
    before = snapshot(learner.heads["t0"])
    world.start(learner, world.tasks[1])
    world.train(learner, world.tasks[1])
    assert changed(before, snapshot(learner.heads["t0"])) == ["linear.bias", "linear.weight"]


def test_starting_the_tasks_again_makes_a_learner_that_takes_the_state(world: Any) -> None:
    learner, again = trained(world, 2), world.learner("lwf")
    for task in world.tasks[:2]:
        world.start(again, task)
    again.load_state_dict(learner.state_dict(), strict=True)
    assert changed(snapshot(learner), snapshot(again)) == []
