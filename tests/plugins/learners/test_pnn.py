"""Progressive networks: columns with lateral connections."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.assembly.predict import make_predict
from sidetune_core.config import registry
from sidetune_core.config.kinds import LEARNER
from sidetune_core.errors import FitError
from sidetune_core.interfaces.learner import Components
from sidetune_core.interfaces.tasks import Order
from sidetune_core.seeding import seeded
from sidetune_core.testing import check_plugin, sample
from sidetune_core.testing.subject import MACHINE

SHAPE = (64,)


def make(name: str = "pnn", base: Any = None, **options: Any) -> Any:
    cls = registry.load(registry.find(LEARNER, name))
    components = Components(
        sample.INPUTS,
        base or (lambda pretrained=True: sample.TinyBase(SHAPE)),
        lambda base, pretrained=True: sample.TinySide(base.shape),
        lambda _, count: sample.TinyMerger(count),
    )
    with seeded(0, "build"):
        return cls(cls.Config(**options), components)


def start(learner: Any, task: Any) -> list[nn.Module | nn.Parameter]:
    with seeded(0, "start", task.id):
        trainable = learner.start(task)
    learner.requires_grad_(False).eval()
    for target in trainable:
        target.requires_grad_(True)
        if isinstance(target, nn.Module):
            target.train()
    return trainable


def step(learner: Any, task: Any, count: int = 3) -> None:
    optimizer = torch.optim.Adam(
        [parameter for parameter in learner.parameters() if parameter.requires_grad], 0.01
    )
    batches = task.train(make_predict(learner, task, MACHINE), Order(0, 8))
    for _ in range(count):
        batch = next(batches)
        optimizer.zero_grad()
        task.loss(learner(batch.inputs, task.id), batch).mean().backward()
        optimizer.step()


def test_it_keeps_the_contract_of_a_learner_with_linear_and_dense_adapters() -> None:
    findings = check_plugin("learner", "pnn", {"adapter": "linear", "dense": True})
    outcomes = {finding.check: finding.outcome for finding in findings}
    needs_the_task = {"unknown_tasks_are_answered_or_refused": "skipped"}
    assert {check: outcome for check, outcome in outcomes.items() if outcome != "passed"} == needs_the_task


@pytest.mark.parametrize("dense", [False, True])
def test_without_its_adapters_it_is_side_tuning(dense: bool) -> None:
    progressive, plain = make(dense=dense), make("sidetune")
    for task in sample.tasks():
        start(progressive, task)
        start(plain, task)
    for parameter in progressive.laterals.parameters():
        parameter.data.zero_()
    plain.load_state_dict(
        {name: value for name, value in progressive.state_dict().items() if not name.startswith("laterals")}
    )
    inputs = sample.images(range(5))
    for task in sample.tasks():
        assert torch.equal(progressive.eval()(inputs, task.id), plain.eval()(inputs, task.id))


@pytest.mark.parametrize("dense", [False, True])
def test_nothing_outside_the_current_task_changes_at_any_step(dense: bool) -> None:
    learner = make(dense=dense)
    first, second = sample.tasks()
    start(learner, first)
    step(learner, first)
    start(learner, second)
    before = copy.deepcopy(
        {name: value for name, value in learner.state_dict().items() if ".t1." not in name}
    )
    for _ in range(4):
        step(learner, second, 1)
        now = learner.state_dict()
        assert all(torch.equal(now[name], value) for name, value in before.items())


def test_a_dense_column_depends_on_the_previous_one(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make(dense=True)
    first, second = sample.tasks()
    for task in (first, second):
        start(learner, task)
    learner.eval()
    inputs = sample.images(range(4))
    before = learner(inputs, "t1")
    learner.sides["t0"].first[0].weight.data.mul_(-1)
    assert not torch.equal(learner(inputs, "t1"), before)


def test_each_earlier_column_runs_once_for_a_batch() -> None:
    learner = make(dense=True)
    tasks = sample.tasks()
    for task in tasks:
        start(learner, task)
    runs = []
    learner.sides["t0"].first.register_forward_hook(lambda *_: runs.append(1))
    learner.sides["t0"].first[0].register_forward_hook(lambda *_: runs.append(1))
    learner(sample.images(range(4)), "t1")
    assert len(runs) == 1


def test_a_linear_adapter_is_a_pointwise_layer_after_max_pooling() -> None:
    learner = make(adapter="linear")
    (task, _) = sample.tasks()
    start(learner, task)
    adapter = learner.laterals["t0"].adapters[0][0]
    maps = torch.rand(2, 16, 8, 8)
    pooled = functional.max_pool2d(maps, 2)
    expected = (
        torch.einsum("oi,bihw->bohw", adapter.second.weight[:, :, 0, 0], pooled)
        + adapter.second.bias[:, None, None]
    )
    assert torch.allclose(adapter(maps), expected, atol=1e-6)


def test_the_source_in_the_base_is_its_deepest_tap_that_is_large_enough() -> None:
    learner = make()
    (task, _) = sample.tasks()
    start(learner, task)
    assert learner.laterals["t0"].source_indices == [
        [1]
    ]  # stage (6, 4, 4) from tap (16, 4, 4), not (8, 8, 8)


def test_a_base_without_taps_is_refused() -> None:
    class Tapless(sample.TinyBase):
        def __init__(self, pretrained: bool = True) -> None:
            super().__init__(SHAPE)
            self.tap_shapes = ()

    with pytest.raises(FitError, match="learner 'pnn' needs a base with taps"):
        make(base=Tapless)


def test_a_side_without_stages_is_refused() -> None:
    from sidetune_core.interfaces.networks import Side

    class Plain(Side):
        Config = sample.Config

        def forward(self, inputs: Any, features: Any) -> Tensor:
            return features.encoding

    cls = registry.load(registry.find(LEARNER, "pnn"))
    components = Components(
        sample.INPUTS,
        lambda pretrained=True: sample.TinyBase(SHAPE),
        lambda *_: Plain(),
        lambda *_: sample.TinyMerger(2),
    )
    with pytest.raises(FitError, match="needs a side with stages"):
        cls(cls.Config(), components)
