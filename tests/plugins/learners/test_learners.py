"""Features, sidetune, finetune and distill: what they train, predict and add to the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sidetune_core.api import Batch, Inputs, Order, Outputs

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
INPUTS = {"x": X}

ALL = [
    ("features", {}),
    ("sidetune", {}),
    ("finetune", {}),
    ("finetune", {"side": False, "merger": None}),
    ("distill", {"merger": None}),
]
each = pytest.mark.parametrize(
    ("name", "how"), ALL, ids=["features", "sidetune", "finetune", "finetune-alone", "distill"]
)


def standardised(encoding: Tensor) -> Tensor:
    """(B, 16) in two groups of eight, as by the original's normalisation at that width."""
    groups = encoding.unflatten(1, (2, 8))
    centred = groups - groups.mean(2, keepdim=True)
    return (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).flatten(1)


def encode(module: Any) -> Tensor:
    """The tiny base's encoding of `X` in eval mode, by hand; the tiny side's is its hyperbolic tangent."""
    linear, norm = module.linear, module.norm
    x = X @ linear.weight.T + linear.bias
    return (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias


def head(learner: Any, encoding: Tensor, task: str) -> Tensor:
    linear = learner.heads[task].linear
    return encoding @ linear.weight.T + linear.bias


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


# What is trained


def test_features_trains_only_the_head_of_the_task(world: Any) -> None:
    learner = world.learner("features")
    world.start(learner, world.tasks[0])
    assert world.start(learner, world.tasks[1]) == [learner.heads["t1"]]


def test_sidetune_trains_side_merger_and_head_of_the_task(world: Any) -> None:
    learner = world.learner("sidetune")
    world.start(learner, world.tasks[0])
    trainable = world.start(learner, world.tasks[1])
    assert set(trainable) == {learner.sides["t1"], learner.mergers["t1"], learner.heads["t1"]}


def test_finetune_trains_everything_except_the_heads_of_other_tasks(world: Any) -> None:
    learner = world.learner("finetune")
    world.start(learner, world.tasks[0])
    assert set(world.start(learner, world.tasks[1])) == {
        learner.base,
        learner.side,
        learner.merger,
        learner.heads["t1"],
    }


def test_finetune_without_a_side_trains_base_and_head(world: Any) -> None:
    learner = world.learner("finetune", side=False, merger=None)
    assert set(world.start(learner, world.tasks[0])) == {learner.base, learner.heads["t0"]}


def test_distill_trains_side_and_head(world: Any) -> None:
    learner = world.learner("distill", merger=None)
    assert set(world.start(learner, world.tasks[0])) == {learner.side, learner.heads["t0"]}


@each
def test_only_trainable_parameters_have_gradients(name: str, how: dict[str, Any], world: Any) -> None:
    learner = world.learner(name, **how)
    world.start(learner, world.tasks[0])
    world.train(learner, world.tasks[0], steps=1)
    learner.zero_grad()
    trainable = world.start(learner, world.tasks[1])
    batch = next(world.tasks[1].train(None, Order(0, 8)))
    world.losses(learner, batch, world.tasks[1])["all"].backward()
    trainable_ids = {id(parameter) for module in trainable for parameter in module.parameters()}
    for key, parameter in learner.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in trainable_ids), key


# Predictions


def test_features_predicts_with_the_head_on_the_standardised_encoding(world: Any) -> None:
    learner = world.learner("features")
    world.start(learner, world.tasks[0])
    assert_close(learner.eval()(INPUTS, "t0"), head(learner, standardised(encode(learner.base)), "t0"))


@pytest.mark.parametrize("name", ["features", "sidetune", "finetune", "distill"])
def test_without_norm_the_head_sees_the_encoding_itself(name: str, world: Any) -> None:
    learner = world.learner(name, norm=False)
    world.start(learner, world.tasks[0])
    seen: list[Tensor] = []
    learner.eval().heads["t0"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    learner(INPUTS, "t0")
    base = encode(learner.base)
    expected = {
        "features": lambda: base,
        "sidetune": lambda: (base + encode(learner.sides["t0"]).tanh()) / 2,
        "finetune": lambda: (base + encode(learner.side).tanh()) / 2,
        "distill": lambda: encode(learner.side).tanh(),
    }
    assert_close(seen[0], expected[name]())


def test_sidetune_predicts_by_the_equation_of_the_paper(world: Any) -> None:
    learner = world.learner("sidetune")
    for task in world.tasks[:2]:
        world.start(learner, task)
        world.train(learner, task)
    for task in ("t0", "t1"):
        w = torch.sigmoid(learner.mergers[task].alpha)
        assert w != 0.5
        merged = w * encode(learner.base) + (1 - w) * encode(learner.sides[task]).tanh()
        assert_close(learner(INPUTS, task), head(learner, standardised(merged), task))


def test_finetune_with_a_side_predicts_from_the_merged_encoding(world: Any) -> None:
    learner = world.learner("finetune", merger="sum")
    world.start(learner, world.tasks[0])
    merged = encode(learner.base) + encode(learner.side).tanh()
    assert_close(learner.eval()(INPUTS, "t0"), head(learner, standardised(merged), "t0"))


def test_finetune_without_a_side_predicts_from_the_base(world: Any) -> None:
    learner = world.learner("finetune", side=False, merger=None)
    world.start(learner, world.tasks[0])
    assert_close(learner.eval()(INPUTS, "t0"), head(learner, standardised(encode(learner.base)), "t0"))


def test_distill_predicts_from_the_student_alone(world: Any) -> None:
    learner = world.learner("distill", merger=None)
    world.start(learner, world.tasks[0])
    assert_close(learner.eval()(INPUTS, "t0"), head(learner, standardised(encode(learner.side).tanh()), "t0"))


def test_sidetune_with_all_the_weight_on_the_base_predicts_as_features_does(world: Any) -> None:
    learner, plain = world.learner("sidetune"), world.learner("features")
    for each_learner in (learner, plain):
        world.start(each_learner, world.tasks[0])
    plain.base.load_state_dict(learner.base.state_dict())
    plain.heads.load_state_dict(learner.heads.state_dict())
    learner.mergers["t0"].alpha.data.fill_(100.0)
    assert_close(learner.eval()(INPUTS, "t0"), plain.eval()(INPUTS, "t0"))


# Penalties


@pytest.mark.parametrize("name", ["features", "sidetune", "finetune"])
def test_these_add_nothing_to_the_loss(name: str, world: Any) -> None:
    learner = world.learner(name)
    world.start(learner, world.tasks[0])
    batch = next(world.tasks[0].train(None, Order(0, 8)))
    assert sorted(world.losses(learner, batch, world.tasks[0])) == ["all", "loss"]


@pytest.mark.parametrize("coef", [0.0, 1.0, 2.5])
def test_distill_adds_the_mean_squared_difference_of_the_encodings(coef: float, world: Any) -> None:
    learner = world.learner("distill", merger=None, coef=coef)
    world.start(learner, world.tasks[0])
    learner.side.eval()
    batch = Batch(torch.arange(len(X)), Inputs({"x": X}), torch.zeros(len(X), dtype=torch.int64))
    expected = coef * functional.mse_loss(encode(learner.side).tanh(), encode(learner.base))
    assert_close(world.losses(learner, batch, world.tasks[0])["difference"], expected)


def test_with_a_large_coef_the_student_approaches_the_teacher(world: Any) -> None:
    learner = world.learner("distill", merger=None, coef=100.0)
    world.start(learner, world.tasks[0])
    before = functional.mse_loss(encode(learner.side).tanh(), encode(learner.base))
    world.train(learner, world.tasks[0], steps=60)
    assert functional.mse_loss(encode(learner.side).tanh(), encode(learner.base)) < before / 2


# Later tasks

SHARED: dict[str, tuple[str, ...]] = {
    "features": (),
    "sidetune": (),
    "finetune": ("base.", "side.", "merger."),
    "distill": ("side.",),
}


@each
def test_a_later_task_changes_only_its_own_and_shared_tensors(
    name: str, how: dict[str, Any], world: Any, snapshot: Any
) -> None:
    learner = world.learner(name, **how)
    before: dict[str, Tensor] = {}
    for task in world.tasks:
        before = snapshot(learner)
        world.start(learner, task)
        world.train(learner, task)
    after = learner.state_dict()
    kept = {key for key in before if torch.equal(before[key], after[key])}
    assert kept == {key for key in before if not key.startswith(SHARED[name])}


@pytest.mark.parametrize("name", ["features", "sidetune"])
def test_predictions_of_an_earlier_task_stay_the_same_bit_for_bit(name: str, world: Any) -> None:
    learner = world.learner(name)
    world.start(learner, world.tasks[0])
    world.train(learner, world.tasks[0])
    before = learner(INPUTS, "t0")
    world.start(learner, world.tasks[1])
    world.train(learner, world.tasks[1])
    assert torch.equal(learner(INPUTS, "t0"), before)


@each
def test_all_trainable_tensors_change(name: str, how: dict[str, Any], world: Any, snapshot: Any) -> None:
    learner = world.learner(name, **how)
    trainable = world.start(learner, world.tasks[0])
    before = [snapshot(module) for module in trainable]
    world.train(learner, world.tasks[0])
    for module, old in zip(trainable, before, strict=True):
        assert not any(torch.equal(value, old[key]) for key, value in module.state_dict().items())


# Resume


@each
def test_starting_the_same_tasks_again_makes_a_learner_that_takes_the_state(
    name: str, how: dict[str, Any], world: Any
) -> None:
    learner = world.learner(name, **how)
    for task in world.tasks[:2]:
        world.start(learner, task)
        world.train(learner, task)
    again = world.learner(name, **how)
    for task in world.tasks[:2]:
        world.start(again, task)
    again.load_state_dict(learner.state_dict(), strict=True)
    again.eval()
    assert all(torch.equal(again(INPUTS, task), learner(INPUTS, task)) for task in ("t0", "t1"))


def test_sidetune_records_the_base_weight_of_the_current_task(world: Any) -> None:
    learner = world.learner("sidetune")
    for task in world.tasks[:2]:
        world.start(learner, task)
    learner.mergers["t0"].alpha.data.fill_(5.0)
    assert learner.record() == {"merger.base": 0.5}


def test_a_merger_without_weights_records_nothing(world: Any) -> None:
    learner = world.learner("sidetune", merger="sum")
    world.start(learner, world.tasks[0])
    assert learner.record() == {}


# Distilling through a head


@pytest.mark.parametrize("outputs", ["regression", "logits", "binary"])
def test_distill_compares_the_outputs_of_a_fixed_head(
    outputs: str, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = world.tasks[0]
    monkeypatch.setitem(vars(task), "outputs", Outputs(outputs, 2))
    learner = world.learner("distill", merger=None, match="output", norm=False, coef=2.0)
    world.start(learner, task)
    learner.side.eval()
    batch = next(task.train(None, Order(0, 8)))
    difference = world.losses(learner, batch, task)["difference"]
    head = learner.heads["t0"]
    features = learner.base(batch.inputs)
    output, target = head(learner.side(batch.inputs, features)), head(features.encoding)
    probabilities = target.softmax(1)
    p = target.sigmoid()
    expected = {
        "regression": (output - target).square().mean(),
        "logits": -(probabilities * output.log_softmax(1)).sum(1).mean(),
        "binary": -(p * output.sigmoid().log() + (1 - p) * (1 - output.sigmoid()).log()).mean(),
    }
    assert_close(difference, 2 * expected[outputs])
    difference.backward()
    assert all(weight.grad is None for weight in head.parameters())
    assert all(weight.grad is not None for weight in learner.side.parameters())


def test_distill_without_labels_learns_from_the_teacher_alone(world: Any) -> None:
    task = world.tasks[0]
    learner = world.learner("distill", merger=None, coef=0.0, labels=False)
    world.start(learner, task)
    batch = next(task.train(None, Order(0, 8)))
    world.losses(learner, batch, task)["loss"].backward()
    assert all(weight.grad is None for weight in learner.side.parameters())
    assert all(weight.grad is not None for weight in learner.heads["t0"].parameters())


def test_distill_freezes_a_head_from_a_file(world: Any, tmp_path: Path) -> None:
    task = world.tasks[0]
    teacher = world.learner("features", side=False, merger=None)
    world.start(teacher, task)
    torch.save(teacher.heads["t0"].state_dict(), tmp_path / "head.pth")
    learner = world.learner("distill", merger=None, match="output", head_weights=str(tmp_path / "head.pth"))
    trainable = world.start(learner, task)
    assert trainable == [learner.side]
    world.train(learner, task)
    assert all(
        torch.equal(value, teacher.heads["t0"].state_dict()[key])
        for key, value in learner.heads["t0"].state_dict().items()
    )
