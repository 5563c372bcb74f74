"""GEM: the quadratic program, and the gradients that it is given."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from scipy.optimize import minimize
from sidetune_continual.gem import GEM, project
from torch.nn import functional

from sidetune_core.api import ClassTask, Order, Phase, TrainingStep
from sidetune_core.interfaces.training import PhaseSteps

STEP = TrainingStep(0, 1, 0, PhaseSteps(Phase(), 0, 1), batch_size=8)


@pytest.mark.parametrize("seed", range(8))
def test_the_gradient_is_the_nearest_that_keeps_all_constraints(seed: int) -> None:
    """By brute force: the nearest of the projections onto every face of the feasible cone (eq. 8)."""
    generator = torch.Generator().manual_seed(seed)
    gradient, rows = (torch.randn(*shape, generator=generator) for shape in ((12,), (3, 12)))
    found = project(gradient, rows)
    candidates = []
    for count in range(4):
        for active in combinations(rows.double(), count):
            face = torch.stack(active) if active else rows.double()[:0]
            candidate = gradient.double() - face.T @ torch.linalg.pinv(face.T) @ gradient.double()
            if (rows.double() @ candidate).min() > -1e-9:
                candidates.append(candidate)
    nearest = min(candidates, key=lambda candidate: float((candidate - gradient).norm()))
    torch.testing.assert_close(found, nearest.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_the_dual_has_the_minimum_that_scipy_finds(margin: float) -> None:
    """Of ``v' G G' v / 2 + g' G' v`` for v >= margin (eq. 11), by a bounded quasi-Newton method."""
    generator = torch.Generator().manual_seed(0)
    gradient, rows = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((9,), (4, 9))
    )
    products, linear = (rows @ rows.T).numpy(), (rows @ gradient).numpy()
    solved = minimize(
        lambda v: v @ products @ v / 2 + linear @ v,
        x0=[margin] * 4,
        jac=lambda v: products @ v + linear,
        bounds=[(margin, None)] * 4,
        method="L-BFGS-B",
        options={"ftol": 1e-16, "gtol": 1e-10},
    )
    expected = gradient + torch.as_tensor(solved.x) @ rows
    torch.testing.assert_close(project(gradient, rows, margin), expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_two_tasks_that_are_the_same_are_one_constraint() -> None:
    gradient, row = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])
    assert project(gradient, torch.stack([row, row])).tolist() == pytest.approx([1.0, 0.0])


def test_a_gradient_without_conflict_stays() -> None:
    gradient = torch.tensor([1.0, 1.0])
    assert project(gradient, torch.tensor([[0.0, 2.0]]), 0.5) is gradient


def test_a_step_conflicts_with_the_gradient_on_no_memory(
    make: Callable[..., Any], fit: Callable[..., None], tasks: list[ClassTask]
) -> None:
    learner = make(GEM, memory=12, margin=0.0)
    fit(learner, tasks[0])
    learner.start(tasks[1])
    learner.requires_grad_(True)
    weights, columns = list(learner.parameters()), learner.memory["t0"]
    assert len(set(columns["id"].tolist())) == 12
    loss = functional.cross_entropy(learner({"x": columns["input.x"]}, "t0"), columns["target"])
    against = torch.autograd.grad(loss, weights, materialize_grads=True)
    for weight, gradient in zip(weights, against, strict=True):
        weight.grad = -gradient  # exactly what GEM must not allow
    learner.after_backward(tasks[1], STEP)
    assert max(float(weight.grad.abs().max()) for weight in weights) < 1e-6
    batch = next(tasks[1].train(lambda inputs: inputs["x"], Order(0, 8)))
    learner.zero_grad()
    (-sum(learner.losses(batch, tasks[1], STEP).values())).backward()
    learner.after_backward(tasks[1], STEP)
    own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    assert sum((first * other).sum() for first, other in zip(own, against, strict=True)) > -1e-6
