"""BiC: the two parameters, what is held out, and the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from sidetune_continual.bic import RIDGE, BiC, fit_correction
from torch.nn import functional

from sidetune_core.api import ClassTask, FitError, Order, Outputs, Phase, TrainingStep
from sidetune_core.interfaces.training import PhaseSteps

Make, Fit = Callable[..., Any], Callable[..., None]


def test_the_correction_is_the_minimum_that_scipy_finds() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(60, 5)), random.integers(0, 5, 60)
    logits[np.arange(60), labels] += 1
    logits[:, 3:] = 2 * logits[:, 3:] + 1.5  # the bias towards new classes

    def loss(correction: Any) -> float:
        corrected = np.concatenate([logits[:, :3], correction[0] * logits[:, 3:] + correction[1]], 1)
        own = -log_softmax(corrected, axis=1)[np.arange(60), labels].mean()
        return float(own + RIDGE / 2 * ((correction[0] - 1) ** 2 + correction[1] ** 2))

    expected = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    old, new = torch.tensor(logits[:, :3]), torch.tensor(logits[:, 3:])
    found = fit_correction(old, new, torch.tensor(labels))
    assert found.tolist() == pytest.approx(expected.x.tolist(), abs=1e-6)
    assert found[0] < 0.8
    assert found[1] < 0


def test_the_correction_is_finite_for_examples_that_are_all_classified_correctly() -> None:
    labels = torch.arange(4)
    found = fit_correction(100 * torch.eye(4)[:, :2], 100 * torch.eye(4)[:, 2:], labels)
    assert torch.isfinite(found).all()


def test_exemplars_are_as_many_of_each_class_and_the_held_out_were_not_trained_on(
    make: Make, fit: Fit, tasks: list[ClassTask]
) -> None:
    """16 exemplars of two classes, a quarter of them held out, and then of four classes."""
    learner = make(BiC, exemplars=16, held_out=0.25)
    fit(learner, tasks[0])
    ids, labels = (learner.held_out[name].tolist() for name in ("id", "target"))
    assert len(set(ids)) == 4
    assert sorted(labels) == [0, 0, 1, 1]
    fit(learner, tasks[1])
    parts = zip(learner.exemplars["label"].tolist(), learner.exemplars["held_out"].tolist(), strict=True)
    assert sorted(parts) == [(label, part) for label in range(4) for part in (0, 0, 0, 1)]
    batch = next(tasks[1].train(lambda inputs: inputs["x"], Order(0, 40)))
    is_held_out = torch.isin(batch.ids, learner.held_out["id"])
    images = learner.exemplars["input.x"][learner.exemplars["label"] >= 2]
    for part, mine in enumerate((batch.inputs["x"][~is_held_out], batch.inputs["x"][is_held_out])):
        stored = images[learner.exemplars["held_out"][learner.exemplars["label"] >= 2] == part]
        assert all((image == mine).all(1).any() for image in stored)


def test_the_logits_of_a_task_are_corrected_by_its_own_numbers(
    make: Make, fit: Fit, tasks: list[ClassTask]
) -> None:
    learner = make(BiC, exemplars=16)
    for task in tasks:
        fit(learner, task)
    assert list(learner.corrections) == ["t1"]
    alpha, beta = learner.corrections["t1"]
    assert (alpha, beta) != (1.0, 0.0)
    inputs = {"x": torch.randn(7, 6)}
    encoding = learner.base(inputs).encoding
    raw = [learner.heads.predict(encoding, task.id) for task in tasks]
    expected = torch.cat([raw[0], alpha * raw[1] + beta], 1)
    torch.testing.assert_close(learner.predict(inputs, None), expected)
    torch.testing.assert_close(learner.predict(inputs, "t1"), expected[:, 2:])


def test_the_loss_is_that_of_examples_and_exemplars_together(
    make: Make, fit: Fit, tasks: list[ClassTask]
) -> None:
    """Equations 1 to 3 by hand, on the union of the 38 examples that are not held out and of 2 exemplars."""
    learner = make(BiC, exemplars=8)
    fit(learner, tasks[0])
    first = (learner.exemplars["rank"] == 0) & (learner.exemplars["held_out"] == 0)
    learner.exemplars.replace({name: learner.exemplars[name][first] for name in learner.exemplars})
    batch = next(tasks[1].train(lambda inputs: inputs["x"], Order(0, 40)))
    exemplars = {"x": learner.exemplars["input.x"]}
    old = [learner(inputs, "t0") for inputs in (batch.inputs, exemplars)]
    learner.start(tasks[1])
    learner.requires_grad_(False)
    learner.base.last.weight += 0.1
    learner.corrections["t0"] = torch.tensor([0.5, 0.2])  # the teacher has none
    step = TrainingStep(0, 1, 0, PhaseSteps(Phase(), 0, 1), batch_size=40, rows=slice(0, 40))
    torch.manual_seed(0)
    losses = learner.losses(batch, tasks[1], step)
    assert len(learner.held_out["id"]) == 2
    kept = (~torch.isin(batch.ids, learner.held_out["id"])).float()
    expected = torch.zeros(2)
    for inputs, targets, labels, weights in (
        (batch.inputs, old[0], batch.targets + 2, kept),
        (exemplars, old[1], torch.tensor([0, 1]), torch.bincount(learner._drawn, minlength=2) * 2 / 40),
    ):
        logits = torch.cat([learner(inputs, "t0"), learner(inputs, "t1")], 1)
        classification = functional.cross_entropy(logits, labels, reduction="none")
        distillation = -((targets / 2).softmax(1) * (logits[:, :2] / 2).log_softmax(1)).sum(1)
        expected += torch.stack([weights @ classification, weights @ distillation]) / 2  # lambda = 1 / 2
    torch.testing.assert_close(torch.stack([losses["loss"], losses["distillation"]]), expected / 40)


def test_a_task_without_known_classes_is_refused(make: Make, tasks: list[ClassTask]) -> None:
    tasks[0].outputs = Outputs("regression", 2)
    with pytest.raises(FitError, match="classification"):
        make(BiC).start(tasks[0])
