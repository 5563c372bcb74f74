"""HAT: gates, their gradient, and what stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sidetune_continual.hat import HAT
from torch.nn import functional

from sidetune_core.api import ClassTask, Order, Phase, TrainingStep
from sidetune_core.interfaces.training import PhaseSteps

Make, Fit = Callable[..., Any], Callable[..., None]


def step(number: int, total: int = 20) -> TrainingStep:
    return TrainingStep(number, total, 0, PhaseSteps(Phase(), 0, total), batch_size=8)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_the_outputs_of_a_task_stay_bit_for_bit(
    optimizer: Any, make: Make, fit: Fit, tasks: list[ClassTask]
) -> None:
    learner = make(HAT, width=12)
    fit(learner, tasks[0], optimizer=optimizer, weight_decay=0.1)
    batch = next(tasks[0].train(lambda inputs: inputs["x"], Order(0, 8)))
    before, weight = learner(batch.inputs, "t0"), learner.layers[0].weight.clone()
    assert learner.used.any()
    fit(learner, tasks[1], optimizer=optimizer, weight_decay=0.1)
    assert torch.equal(learner(batch.inputs, "t0"), before)
    assert not torch.equal(learner.layers[0].weight, weight)


def test_a_weight_is_fixed_if_earlier_tasks_use_both_of_its_units(make: Make, tasks: list[ClassTask]) -> None:
    learner = make(HAT, width=3)
    learner.used[:] = torch.tensor([[True, False, True], [False, True, True]])
    learner.start(tasks[0])
    for parameter in learner.parameters():
        parameter.grad = torch.ones_like(parameter)
    learner.after_backward(tasks[0], step(0))
    first, second = learner.layers
    assert [row.unique().tolist() for row in first.weight.grad] == [[0.0], [1.0], [0.0]]  # of 16 inputs
    assert first.bias.grad.tolist() == [0, 1, 0]
    assert second.weight.grad.tolist() == [[1, 1, 1], [0, 1, 0], [0, 1, 0]]
    assert second.bias.grad.tolist() == [1, 0, 0]


def test_s_increases_to_its_maximum_in_each_epoch(make: Make, tasks: list[ClassTask]) -> None:
    learner = make(HAT, scale=400.0)
    scales = [learner._scale(tasks[0], step(number)) for number in range(10)]  # two epochs of 40 examples
    expected = [1 / 400 + (400 - 1 / 400) * number / 4 for number in range(5)]
    assert scales == pytest.approx(expected * 2)


def test_the_gradient_of_an_embedding_is_that_of_a_sigmoid_with_s_1_times_the_maximum(
    make: Make, tasks: list[ClassTask]
) -> None:
    """``q' = s_max dL/da sigmoid'(e)``, with the gradient of the loss for the gates a by hand."""
    learner = make(HAT, width=4, scale=50.0, sparsity=0.3)
    learner.start(tasks[0])
    learner.used[0, 1] = True
    embedding, first, second = learner.embeddings["t0"], *learner.layers
    with torch.no_grad():
        embedding *= 0.1
    batch = next(tasks[0].train(lambda inputs: inputs["x"], Order(0, 8)))
    learner.eval()
    losses = learner.losses(batch, tasks[0], step(2))
    sum(losses.values()).backward()
    learner.after_backward(tasks[0], step(2))
    gates = torch.sigmoid(learner._scale(tasks[0], step(2)) * embedding.detach()).requires_grad_()
    hidden = first(learner.base(batch.inputs).encoding).relu() * gates[0]
    hidden = second(hidden).relu() * gates[1]
    free = torch.ones(2, 4)
    free[0, 1] = 0
    own = functional.cross_entropy(learner.heads["t0"](hidden), batch.targets)
    loss = own + 0.3 * (gates * free).sum() / 7
    torch.testing.assert_close(loss, sum(losses.values()))
    (gradient,) = torch.autograd.grad(loss, gates)
    slope = torch.sigmoid(embedding.detach()) * torch.sigmoid(-embedding.detach())
    torch.testing.assert_close(embedding.grad, 50.0 * gradient * slope, rtol=1e-3, atol=1e-6)
