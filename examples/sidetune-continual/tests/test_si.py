"""SI: path integrals where they are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sidetune_continual.si import SI, flat

from sidetune_core.api import ClassTask, Order, Phase, TrainingStep
from sidetune_core.interfaces.training import PhaseSteps

STEP = TrainingStep(0, 1, 0, PhaseSteps(Phase(), 0, 1), batch_size=8)


def descend(learner: SI, task: ClassTask, curvature: torch.Tensor, minimum: torch.Tensor, steps: int) -> None:
    """Gradient descent on ``curvature / 2 * (theta - minimum)**2`` plus the learner's own penalty."""
    weights = list(learner.base.parameters())
    coef = learner._config.coef
    for _ in range(steps):
        now = flat(weights).detach()
        penalty = 2 * coef * learner.synapses.importance * (now - learner.synapses.anchor)
        gradient = curvature * (now - minimum) + penalty
        for weight, own in zip(weights, gradient.split([w.numel() for w in weights]), strict=True):
            weight.grad = own.view(weight.shape).clone()
        learner.after_backward(task, STEP)
        with torch.no_grad():
            for weight in weights:
                weight -= 1e-3 * weight.grad
        learner.after_step(task, STEP)


@pytest.mark.parametrize("coef", [0.0, 3.0])
def test_the_path_integral_on_a_quadratic_is_the_fall_of_the_loss(
    coef: float, make: Callable[..., Any], tasks: list[ClassTask]
) -> None:
    """Of the task's loss alone, on a second task too. With small steps the sum is the integral (eq. 3)."""
    learner = make(SI, coef=coef, damping=0.1)
    learner.double()
    size = learner.synapses.path.numel()
    generator = torch.Generator().manual_seed(0)
    expected = torch.zeros(size, dtype=torch.float64)
    for task in tasks:
        learner.start(task)
        curvature = torch.rand(size, generator=generator, dtype=torch.float64)
        minimum = torch.randn(size, generator=generator, dtype=torch.float64)
        before = flat(list(learner.base.parameters())).detach()
        descend(learner, task, curvature, minimum, steps=500)
        after = flat(list(learner.base.parameters())).detach()
        fall = curvature / 2 * ((before - minimum).square() - (after - minimum).square())
        torch.testing.assert_close(learner.synapses.path, fall, rtol=1e-3, atol=1e-9 if coef == 0 else 1e-3)
        expected += learner.synapses.path.clamp(min=0) / ((after - before).square() + 0.1)  # eq. 5
        learner.finish(task, iter(()))
        torch.testing.assert_close(learner.synapses.importance, expected)
        assert torch.equal(learner.synapses.anchor, after)
        assert not learner.synapses.path.any()


def test_the_penalty_has_the_value_and_gradient_of_the_quadratic(
    make: Callable[..., Any], fit: Callable[..., None], tasks: list[ClassTask]
) -> None:
    learner = make(SI, coef=0.5)
    fit(learner, tasks[0])
    learner.start(tasks[1])
    learner.requires_grad_(True)
    with torch.no_grad():
        learner.base.last.weight += 0.1
    batch = next(tasks[1].train(lambda inputs: inputs["x"], Order(0, 8)))
    penalty = learner.losses(batch, tasks[1], STEP)["penalty"]
    synapses, weights = learner.synapses, flat(list(learner.base.parameters())).detach()
    change = weights - synapses.anchor
    torch.testing.assert_close(penalty.detach(), 0.5 * (synapses.importance * change.square()).sum())
    gradients = torch.autograd.grad(penalty, list(learner.base.parameters()))
    torch.testing.assert_close(flat(list(gradients)), synapses.importance * change)
    assert penalty > 0
