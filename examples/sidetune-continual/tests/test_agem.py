"""A-GEM: the projection, and what the reference gradient is of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sidetune_continual.agem import AGEM, project
from torch import nn
from torch.nn import functional

from sidetune_core.api import ClassTask, Order, Phase, TrainingStep
from sidetune_core.interfaces.training import PhaseSteps

STEP = TrainingStep(0, 1, 0, PhaseSteps(Phase(), 0, 1), batch_size=8)


def weights_with(*gradients: list[float] | None) -> list[nn.Parameter]:
    weights = [nn.Parameter(torch.zeros(2)) for _ in gradients]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = None if gradient is None else torch.tensor(gradient)
    return weights


def test_a_conflicting_gradient_is_projected() -> None:
    """By hand: g = (3, -2, 0, 0), r = (0, 2, 0, 2), g . r / r . r = -1/2."""
    weights = weights_with([3.0, -2.0], None)
    project(weights, [torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0])])
    assert [weight.grad.tolist() for weight in weights] == [[3.0, -1.0], [0.0, 1.0]]


def test_another_gradient_stays() -> None:
    weights = weights_with([3.0, 2.0], None)
    project(weights, [torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0])])
    assert weights[0].grad.tolist() == [3.0, 2.0]
    assert weights[1].grad is None


def test_the_step_does_not_conflict_with_the_gradient_on_the_memory(
    make: Callable[..., Any], fit: Callable[..., None], tasks: list[ClassTask]
) -> None:
    """With the memory sampled whole, its gradient is that of its mean loss, computed here by itself."""
    learner = make(AGEM, memory=10, sample=10)
    fit(learner, tasks[0])
    columns = learner.memory["t0"]
    learner.start(tasks[1])
    learner.requires_grad_(True)
    weights = list(learner.parameters())
    output = learner({"x": columns["input.x"]}, "t0")
    loss = functional.cross_entropy(output, columns["target"])
    reference = torch.cat(
        [one.flatten() for one in torch.autograd.grad(loss, weights, materialize_grads=True)]
    )
    conflicts = 0
    for number, batch in zip(
        range(20), tasks[1].train(lambda inputs: inputs["x"], Order(0, 8)), strict=False
    ):
        learner.zero_grad()
        sign = 1 - 2 * (number % 2)  # descent and ascent on the new task: one of them conflicts
        (sign * sum(learner.losses(batch, tasks[1], STEP).values())).backward()
        own = torch.cat([torch.zeros(w.numel()) if w.grad is None else w.grad.flatten() for w in weights])
        learner.after_backward(tasks[1], STEP)
        found = torch.cat([torch.zeros(w.numel()) if w.grad is None else w.grad.flatten() for w in weights])
        expected = own - min(0.0, own @ reference / (reference @ reference)) * reference
        torch.testing.assert_close(found, expected)
        assert found @ reference > -1e-6
        conflicts += int(own @ reference < 0)
    assert 0 < conflicts < 20


def test_the_memory_has_distinct_examples_of_each_task(
    make: Callable[..., Any], fit: Callable[..., None], tasks: list[ClassTask]
) -> None:
    learner = make(AGEM, memory=30, sample=8)
    for task in tasks:
        fit(learner, task)
    ids = [learner.memory[task.id]["id"].tolist() for task in tasks]
    assert [len(set(own)) for own in ids] == [30, 30]
    assert {id % 2 for id in ids[0]} == {0}
    assert {id % 2 for id in ids[1]} == {1}
    assert sum(len(columns["id"]) for columns in learner._draw().values()) == 8
