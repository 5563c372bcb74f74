"""PackNet: who owns which weights, and what stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sidetune_continual.packnet import FREE, PackNet

from sidetune_core.api import ClassTask, Order

Make, Fit = Callable[..., Any], Callable[..., None]


def test_each_task_owns_what_it_did_not_prune(make: Make, fit: Fit, tasks: list[ClassTask]) -> None:
    """Layers of 96 and 256 weights, of which 70 % and then 70 % of these are pruned."""
    learner = make(PackNet, prune=0.7)
    free = {"first.weight": 96, "last.weight": 256}
    for number, task in enumerate(tasks, 1):
        fit(learner, task)
        for name, count in free.items():
            owner = learner.owners[name]
            free[name] = round(0.7 * count)
            assert int((owner == FREE).sum()) == free[name]
            assert int((owner == number).sum()) == count - free[name]
            assert not learner.base.get_parameter(name)[owner == FREE].any()
    assert learner.record()["free"] == pytest.approx(sum(free.values()) / 352)


def test_the_smallest_weights_of_the_task_are_pruned(make: Make, tasks: list[ClassTask]) -> None:
    learner = make(PackNet, prune=0.5)
    learner.start(tasks[0])
    before = learner.base.last.weight.detach().abs()
    with torch.no_grad():
        learner.start_phase(tasks[0], learner.phases(tasks[0])[1])
    pruned = learner.owners["last.weight"] == FREE
    assert before[pruned].max() < before[~pruned].min()


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {}),
    ],
)
def test_outputs_of_a_task_stay_bit_for_bit(
    optimizer: Any, options: dict[str, Any], make: Make, fit: Fit, tasks: list[ClassTask]
) -> None:
    learner = make(PackNet, prune=0.5)
    batch = next(tasks[0].train(lambda inputs: inputs["x"], Order(0, 8)))
    fit(learner, tasks[0], optimizer=optimizer, weight_decay=0.1, **options)
    before, weight = learner(batch.inputs, "t0"), learner.base.last.weight.clone()
    fit(learner, tasks[1], optimizer=optimizer, weight_decay=0.1, **options)
    assert torch.equal(learner(batch.inputs, "t0"), before)
    assert not torch.equal(learner.base.last.weight, weight)


def test_a_task_uses_the_weights_of_earlier_ones(make: Make, fit: Fit, tasks: list[ClassTask]) -> None:
    learner = make(PackNet, prune=0.5)
    for task in tasks:
        fit(learner, task)
    batch = next(tasks[1].train(lambda inputs: inputs["x"], Order(0, 8)))
    before = learner(batch.inputs, "t1")
    weight = learner.base.last.weight
    weight[learner.owners["last.weight"] == 1] += 1.0
    assert not torch.equal(learner(batch.inputs, "t1"), before)
