"""Memory aware synapses: the importance, the penalty, and the limit without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import Order


def weights_of(learner: Any) -> list[nn.Parameter]:
    return [w for part in (learner.base, learner.side, learner.merger) if part for w in part.parameters()]


def absolute_gradients(learner: Any, task: Any, count: int) -> Tensor:
    """(P,), by backpropagation of each of `count` examples alone, in eval mode."""
    batch = next(task.train(None, Order(7, 20)))
    weights = weights_of(learner)
    total = torch.zeros(sum(weight.numel() for weight in weights)).to(weights[0])
    for x in batch.inputs["x"][:count]:
        learner.requires_grad_(True)
        norm = learner({"x": x[None].to(total)}, task.id).square().sum()
        gradients = torch.autograd.grad(norm, weights, allow_unused=True, materialize_grads=True)
        total += torch.cat([gradient.flatten() for gradient in gradients]).abs()
    learner.requires_grad_(False)
    return total / count


def train(world: Any, learner: Any, task: Any) -> None:
    """Start a task, take a few steps, and finish it frozen and in eval mode, as the core does."""
    world.start(learner, task)
    learner.finish, finish = lambda *_: None, learner.finish
    world.train(learner, task)
    learner.finish = finish
    learner.finish(task, task.train(None, Order(0, 8)))


@pytest.fixture
def learner(world: Any) -> Any:
    """After a few steps, with statistics of batch norms that are not the trivial ones."""
    made = world.learner("mas", coef=2.0)
    train(world, made, world.tasks[0])
    return made


def test_the_importance_is_the_mean_of_absolute_gradients_of_all_examples(learner: Any, world: Any) -> None:
    expected = absolute_gradients(learner, world.tasks[0], 20)
    assert expected.count_nonzero() > 0.9 * len(expected)
    torch.testing.assert_close(learner.pull.fisher, expected, rtol=1e-3, atol=1e-4)


def test_of_a_linear_network_it_has_a_closed_form(world: Any) -> None:
    """``F(x) = V W x``: the gradient of its squared norm with respect to W is ``2 V^T V W x x^T``."""
    learner = world.learner("mas", side=False, merger=None, norm=False)
    task = world.tasks[0]
    world.start(learner, task)
    learner.requires_grad_(False).eval()
    head, linear = learner.heads["t0"].linear, learner.base.linear
    nn.init.zeros_(head.bias)
    nn.init.zeros_(linear.bias)
    learner.finish(task, task.train(None, Order(0, 6)))
    x = next(task.train(None, Order(0, 20))).inputs["x"]
    outer = torch.einsum("bi,bj->bij", x @ linear.weight.T @ head.weight.T @ head.weight, 2 * x)
    torch.testing.assert_close(learner.pull.fisher[:96], outer.abs().mean(0).flatten(), rtol=1e-4, atol=1e-5)


def test_importance_accumulates_over_tasks_and_the_anchor_is_the_latest(learner: Any, world: Any) -> None:
    first, task = learner.pull.fisher.clone(), world.tasks[1]
    train(world, learner, task)
    torch.testing.assert_close(
        learner.pull.fisher, first + absolute_gradients(learner, task, 20), rtol=1e-3, atol=1e-4
    )
    assert torch.equal(learner.pull.anchor, torch.cat([w.flatten() for w in weights_of(learner)]))


def test_the_penalty_is_quadratic_in_the_change_of_each_weight(learner: Any, world: Any) -> None:
    task = world.tasks[1]
    world.start(learner, task)
    batch = next(task.train(None, Order(0, 8)))
    assert float(world.losses(learner, batch, task)["pull"].detach()) == 0
    with torch.no_grad():
        for weight in weights_of(learner):
            weight += 0.5
    pull = world.losses(learner, batch, task)["pull"]
    torch.testing.assert_close(pull, 2.0 * 0.25 * learner.pull.fisher.sum(), rtol=1e-4, atol=1e-4)


def test_with_coef_zero_it_is_fine_tuning(world: Any) -> None:
    learners = [world.learner("mas", coef=0.0), world.learner("finetune")]
    for task in world.tasks[:2]:
        for learner in learners:
            train(world, learner, task)
    state = learners[0].state_dict()
    assert all(torch.equal(state[name], value) for name, value in learners[1].state_dict().items())


def test_a_limit_takes_as_many_examples(world: Any) -> None:
    learner = world.learner("mas", examples=5)
    task = world.tasks[0]
    world.start(learner, task)
    learner.requires_grad_(False).eval()
    learner.finish(task, task.train(None, Order(7, 4)))
    expected = torch.zeros_like(learner.pull.fisher)
    ids: list[int] = []
    learner.requires_grad_(True)
    for batch in task.train(None, Order(7, 4)):
        for example, x in zip(batch.ids.tolist(), batch.inputs["x"], strict=True):
            if len(ids) < 5 and example not in ids:
                ids.append(example)
                norm = learner({"x": x[None]}, "t0").square().sum()
                gradients = torch.autograd.grad(norm, weights_of(learner))
                expected += torch.cat([gradient.flatten() for gradient in gradients]).abs() / 5
        if len(ids) == 5:
            break
    torch.testing.assert_close(learner.pull.fisher, expected, rtol=1e-3, atol=1e-4)
