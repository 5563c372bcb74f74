"""iCaRL: herding, exemplars, the nearest mean, and the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sidetune_continual.icarl import ICaRL, herd
from torch import Tensor
from torch.nn import functional

from sidetune_core.api import ClassTask, FitError, Order, Outputs, Phase, TrainingStep
from sidetune_core.interfaces.training import PhaseSteps

Make, Fit = Callable[..., Any], Callable[..., None]


def unit(values: Tensor) -> Tensor:
    return values / values.norm(dim=-1, keepdim=True)


def test_herding_is_the_greedy_choice_by_brute_force() -> None:
    features = unit(torch.randn(20, 5, generator=torch.Generator().manual_seed(0)))
    mean = unit(features.mean(0))
    expected: list[int] = []
    for k in range(1, 9):
        distances = {
            row: float((mean - unit((features[row] + features[expected].sum(0)) / k)).norm())
            for row in range(20)
            if row not in expected
        }
        expected.append(min(distances, key=lambda row: distances[row]))
    assert herd(features, 8) == expected
    assert sorted(herd(features, 100)) == list(range(20))


def test_sets_of_earlier_classes_are_cut_to_their_first_exemplars(
    make: Make, fit: Fit, tasks: list[ClassTask]
) -> None:
    learner = make(ICaRL, exemplars=16)
    fit(learner, tasks[0])
    first = {name: learner.exemplars[name].clone() for name in learner.exemplars}
    assert first["label"].tolist() == [0] * 8 + [1] * 8
    fit(learner, tasks[1])
    assert learner.exemplars["label"].tolist() == [label for label in range(4) for _ in range(4)]
    for label in range(2):
        own = learner.exemplars["input.x"][learner.exemplars["label"] == label]
        assert torch.equal(own, first["input.x"][first["label"] == label][:4])


def test_the_class_is_that_of_the_nearest_mean(make: Make, fit: Fit, tasks: list[ClassTask]) -> None:
    learner = make(ICaRL, exemplars=16)
    for task in tasks:
        fit(learner, task)
    inputs = {"x": torch.randn(7, 6, generator=torch.Generator().manual_seed(1))}
    features, own = (
        unit(learner.base(one).encoding) for one in (inputs, {"x": learner.exemplars["input.x"]})
    )
    means = torch.stack([unit(own[learner.exemplars["label"] == label].mean(0)) for label in range(4)])
    expected = -(features[:, None] - means).square().sum(2)
    torch.testing.assert_close(learner.predict(inputs, None), expected)
    torch.testing.assert_close(learner.predict(inputs, "t1"), expected[:, 2:])


def test_it_knows_the_classes_of_both_tasks_without_the_task(
    make: Make, fit: Fit, tasks: list[ClassTask]
) -> None:
    learner = make(ICaRL, exemplars=40)
    for task in tasks:
        fit(learner, task, steps=100)
    correct = []
    for number, task in enumerate(tasks):
        batch = next(task.train(lambda inputs: inputs["x"], Order(0, 40)))
        correct.append((learner.predict(batch.inputs, None).argmax(1) == batch.targets + 2 * number).float())
    assert torch.cat(correct).mean() > 0.4  # chance is 0.25


def test_until_the_latest_task_has_exemplars_the_outputs_of_the_network_answer(
    make: Make, fit: Fit, tasks: list[ClassTask]
) -> None:
    learner = make(ICaRL, exemplars=16)
    fit(learner, tasks[0])
    learner.start(tasks[1])
    inputs = {"x": torch.randn(3, 6)}
    expected = torch.cat([learner(inputs, task.id) for task in tasks], 1)
    torch.testing.assert_close(learner.predict(inputs, None), expected)


def test_the_loss_is_that_of_examples_and_exemplars_together(
    make: Make, fit: Fit, tasks: list[ClassTask]
) -> None:
    """Algorithm 3 by hand, on the union of all 40 training examples and of one exemplar of each old class."""
    learner = make(ICaRL, exemplars=4)
    fit(learner, tasks[0])
    learner.exemplars.replace(
        {name: learner.exemplars[name][learner.exemplars["rank"] == 0] for name in learner.exemplars}
    )
    teacher_output = learner.forward
    batch = next(tasks[1].train(lambda inputs: inputs["x"], Order(0, 40)))
    exemplars = {"x": learner.exemplars["input.x"]}
    old = [teacher_output(inputs, "t0").sigmoid() for inputs in (batch.inputs, exemplars)]
    learner.start(tasks[1])
    learner.requires_grad_(False)
    learner.base.last.weight += 0.1
    step = TrainingStep(0, 1, 0, PhaseSteps(Phase(), 0, 1), batch_size=40, rows=slice(0, 40))
    torch.manual_seed(0)
    losses = learner.losses(batch, tasks[1], step)
    drawn = learner._drawn
    total = torch.zeros(2)
    for inputs, targets, labels, weights in (
        (batch.inputs, old[0], functional.one_hot(batch.targets, 2), torch.ones(40)),
        (exemplars, old[1], torch.zeros(2, 2), torch.bincount(drawn, minlength=2) * 2 / 40),
    ):
        new_terms, old_terms = (
            functional.binary_cross_entropy(learner(inputs, name).sigmoid(), goal.float(), reduction="none")
            for name, goal in (("t1", labels), ("t0", targets))
        )
        total += torch.stack([weights @ new_terms.sum(1), weights @ old_terms.sum(1)])
    torch.testing.assert_close(torch.stack([losses["loss"], losses["distillation"]]), total / 42)


def test_a_task_without_known_classes_is_refused(make: Make, tasks: list[ClassTask]) -> None:
    tasks[0].outputs = Outputs("regression", 2)
    with pytest.raises(FitError, match="classification"):
        make(ICaRL).start(tasks[0])
