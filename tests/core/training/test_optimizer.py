"""The optimiser of a task: what is decayed, and the schedules at their ends."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import Merger
from sidetune_core.interfaces.tasks import Task
from sidetune_core.training.optimizer import (
    make_optimizer,
    optimizer_state,
    rate,
    without_wrappers,
)


class Mix(Merger):
    """A scalar, a vector and a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.scalar, self.vector, self.matrix = (
            nn.Parameter(torch.ones(())),
            nn.Parameter(torch.ones(3)),
            nn.Parameter(torch.ones(3, 3)),
        )

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        return encodings[0]


class Small(Learner):
    """A linear layer, a merger, and a part that does not move."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.merger, self.still = nn.Linear(2, 2), Mix(), nn.Linear(4, 4).requires_grad_(False)

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        return []

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return inputs["x"]


Optimizer = Literal["adam", "adamw", "sgd"]
OPTIMIZERS: list[Optimizer] = ["adam", "adamw", "sgd"]
CLASSES: dict[Optimizer, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_decay_without_a_gradient_shrinks_all_but_mergers(optimizer: Optimizer) -> None:
    learner = Small()
    nn.init.ones_(learner.linear.bias)
    made = make_optimizer(learner, TrainOptions(lr=0.1, weight_decay=0.5, optimizer=optimizer))
    for parameter in learner.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {key: value.detach().clone() for key, value in learner.named_parameters()}
    made.step()
    shrunk = {key for key, value in learner.named_parameters() if not torch.equal(value, before[key])}
    assert shrunk == {"linear.weight", "linear.bias"}


def test_what_does_not_move_is_not_in_the_optimiser() -> None:
    learner = Small()
    inside = {
        id(parameter)
        for group in make_optimizer(learner, TrainOptions()).param_groups
        for parameter in group["params"]
    }
    assert inside == {
        id(parameter) for parameter in [*learner.linear.parameters(), *learner.merger.parameters()]
    }


@pytest.mark.parametrize(("still", "groups"), [("merger", 1), ("linear", 1), ("nothing", 2)])
def test_there_is_no_empty_group(still: str, groups: int) -> None:
    learner = Small()
    if still != "nothing":
        learner.get_submodule(still).requires_grad_(False)
    made = make_optimizer(learner, TrainOptions())
    assert len(made.param_groups) == groups
    assert all(group["params"] for group in made.param_groups)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_option_names_the_optimiser(optimizer: Optimizer) -> None:
    made = make_optimizer(Small(), TrainOptions(optimizer=optimizer))
    assert isinstance(made, CLASSES[optimizer])
    assert type(made).__name__ == CLASSES[optimizer].__name__  # an AdamW is an Adam too


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_twenty_steps_give_the_same_bits_as_torchs_own_class(optimizer: Optimizer, momentum: float) -> None:
    options = TrainOptions(optimizer=optimizer, momentum=momentum, weight_decay=0.01)
    learners = Small(), Small()
    learners[1].load_state_dict(learners[0].state_dict())
    ours, theirs = [make_optimizer(learner, options) for learner in learners]
    theirs = CLASSES[optimizer]([dict(group) for group in theirs.param_groups])
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        for first, second in zip(*map(Learner.parameters, learners), strict=True):
            if first.requires_grad:
                first.grad = torch.randn(first.shape, generator=generator)
                second.grad = first.grad.clone()
        for made in (ours, theirs):
            for group in made.param_groups:
                group["lr"] = 0.01 * (step + 1)
            made.step()
            made.zero_grad()
    assert all(map(torch.equal, *map(Learner.parameters, learners)))
    assert optimizer_state(ours).keys() == theirs.state_dict()["state"].keys()


def test_optimisers_do_not_import_the_compiler() -> None:
    program = """
import sys
import torch
from sidetune_core.training.optimizer import SGD, Adam, AdamW, optimizer_state

weight = torch.nn.Parameter(torch.ones(3))
for kind in (SGD, Adam, AdamW):
    optimizer = kind([weight], lr=0.1)
    optimizer.zero_grad()
    weight.sum().backward()
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    optimizer.step()
    optimizer_state(optimizer)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_hooks_of_a_step_run_once() -> None:
    torch.optim.Adam([nn.Parameter(torch.ones(1))])  # wraps its own class for hooks, and only that
    made = make_optimizer(Small(), TrainOptions())
    calls = []
    made.register_step_pre_hook(lambda *_: calls.append("before"))
    made.register_step_post_hook(lambda *_: calls.append("after"))
    made.step()
    assert calls == ["before", "after"]


def test_an_unknown_wrapper_of_a_method_is_kept() -> None:
    @functools.wraps(torch.optim.Adam.step)
    def wrapper() -> None:
        pass

    assert without_wrappers(wrapper) is wrapper


def test_a_step_of_sgd_with_momentum_is_nesterovs() -> None:
    learner = Small()
    learner.merger.requires_grad_(False)
    w = learner.linear.weight.detach().clone()
    made = make_optimizer(learner, TrainOptions(optimizer="sgd", lr=0.1, momentum=0.9))
    for _ in range(2):
        for parameter in learner.linear.parameters():
            parameter.grad = torch.ones_like(parameter)
        made.step()
    # v1 = 1, v2 = 1.9; steps are lr (g + 0.9 v)
    torch.testing.assert_close(learner.linear.weight.detach(), w - 0.1 * (1 + 0.9) - 0.1 * (1 + 0.9 * 1.9))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_takes_every_momentum(momentum: float) -> None:
    make_optimizer(Small(), TrainOptions(optimizer="sgd", momentum=momentum))


# Schedules


def rates(steps: int = 100, **options: Any) -> list[float]:
    return [rate(TrainOptions(lr=0.4, **options), step, steps) for step in range(steps)]


def test_a_constant_rate_is_constant() -> None:
    assert set(rates()) == {0.4}


def test_a_cosine_goes_from_the_rate_through_its_half_towards_zero() -> None:
    found = rates(schedule="cosine")
    assert found[0] == 0.4
    assert found[50] == pytest.approx(0.2)
    assert found[25] == pytest.approx(0.4 * (1 + math.sqrt(0.5)) / 2)
    assert found[-1] == pytest.approx(0.4 * math.sin(math.pi / 200) ** 2)


def test_a_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates(schedule="cosine") == pytest.approx(expected)


def test_one_cycle_climbs_in_a_line_to_its_peak_at_the_end_of_the_warmup() -> None:
    found = rates(schedule="one-cycle", warmup=0.2)
    assert found[:20] == pytest.approx([0.4 * k / 20 for k in range(1, 21)])
    assert max(found) == found[19] == 0.4


def test_one_cycle_falls_as_a_cosine_after_its_peak() -> None:
    found = rates(schedule="one-cycle", warmup=0.2)
    assert found[20] == 0.4
    assert found[60] == pytest.approx(0.2)
    assert found[-1] == pytest.approx(0.4 * math.sin(math.pi / 160) ** 2)
    assert sorted(found[20:], reverse=True) == found[20:]


def test_one_cycle_without_warmup_is_a_cosine() -> None:
    assert rates(schedule="one-cycle", warmup=0.0) == rates(schedule="cosine")


@pytest.mark.parametrize("warmup", [0.0, 0.15, 0.999, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 157])
@pytest.mark.parametrize("schedule", ["one-cycle", "linear"])
def test_a_schedule_with_a_warmup_never_leaves_its_range(schedule: str, steps: int, warmup: float) -> None:
    found = rates(steps, schedule=schedule, warmup=warmup)
    assert all(0 < value <= 0.4 for value in found)
    assert max(found) == 0.4


def test_a_linear_schedule_climbs_as_one_cycle_does() -> None:
    assert rates(schedule="linear", warmup=0.2)[:20] == rates(schedule="one-cycle", warmup=0.2)[:20]


def test_a_linear_schedule_falls_in_a_line_to_zero_after_the_last_step() -> None:
    found = rates(schedule="linear", warmup=0.2)
    assert found[20:] == pytest.approx([0.4 * (100 - step) / 80 for step in range(20, 100)])


def test_a_linear_schedule_without_warmup_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=100)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates(schedule="linear", warmup=0.0) == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_parameter_that_has_no_gradient_in_the_first_step_moves_in_the_second(optimizer: Optimizer) -> None:
    learner = Small()
    made = make_optimizer(learner, TrainOptions(optimizer=optimizer, lr=0.1))
    before = learner.linear.bias.detach().clone()
    for moving in (["weight"], ["weight", "bias"]):
        made.zero_grad()
        for name in moving:
            parameter = learner.linear.get_parameter(name)
            parameter.grad = torch.ones_like(parameter)
        made.step()
        assert torch.equal(learner.linear.bias, before) == ("bias" not in moving)
