"""Learners that add layers of a task's own within a frozen base: residual adapters and LoRA."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Base, Components, Features, FitError
from sidetune_core.config.kinds import BASE, LEARNER
from sidetune_core.config.registry import find, load
from sidetune_core.testing.state import changed, snapshot

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


class Mixed(Base):
    """(6,) to (16,): linear layers, convolutions of several kinds, batch norm."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape = (16,)
        self.stem = nn.Linear(6, 128)
        self.conv = nn.Conv2d(2, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.pointwise = nn.Conv2d(8, 16, 1)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        maps = self.stem(inputs["x"]).view(-1, 2, 8, 8)
        maps = self.grouped(self.norm(self.conv(maps)).relu())
        return Features(self.pointwise(input=maps).mean((2, 3)))


class Bare(Base):
    """A base without a layer that could be adapted."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape, self.weight = (6,), nn.Parameter(torch.ones(6))

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.weight * inputs["x"])


def make(world: Any, name: str, base: Any = Mixed, **options: Any) -> Any:
    return world.learner(name, base=base, side=False, merger=None, **options)


def perturbed(world: Any, learner: Any, number: int = 0) -> None:
    """Start a task and change what it trains, like training."""
    trainable = world.start(learner, world.tasks[number])
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for module in trainable:
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    learner.eval()


def same_encoding(learner: Any, merged: nn.Module) -> None:
    """The base as task t0 sees it computes what a copy with merged weights does."""
    with torch.no_grad(), learner.applied("t0"):
        encoding = learner.base({"x": X}).encoding
    torch.testing.assert_close(encoding, merged.eval()({"x": X}).encoding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [("adapters", {}), ("adapters", {"form": "series", "batchnorm": "frozen"}), ("lora", {"alpha": 4.0})],
    ids=["parallel", "series", "lora"],
)
def test_a_task_starts_at_the_base_and_changes_nothing_of_others(
    name: str, options: dict[str, Any], world: Any
) -> None:
    learner = make(world, name, **options)
    trainable = world.start(learner, world.tasks[0])
    with torch.no_grad():
        learner.eval()
        own = learner.heads.predict(learner.base({"x": X}).encoding, "t0")
        assert torch.equal(learner({"x": X}, "t0"), own)
    world.train(learner, world.tasks[0])
    assert not torch.equal(learner({"x": X}, "t0"), own)
    before, first = snapshot(learner), learner({"x": X}, "t0")
    later = world.start(learner, world.tasks[1])
    world.train(learner, world.tasks[1])
    assert all(".t1." in name for name in changed(before, snapshot(learner)))
    assert torch.equal(learner({"x": X}, "t0"), first)
    assert len(later) == len(trainable)
    assert all(parameter.any() for parameter in learner.added["t1"].parameters())
    assert not any(module._forward_hooks for module in learner.base.modules())


def test_parallel_adapters_merge_into_the_centres_of_kernels(world: Any) -> None:
    learner = make(world, "adapters")
    perturbed(world, learner)
    linear, conv, grouped = learner.added["t0"]
    assert [learner.base.stem, learner.base.conv, learner.base.grouped] == list(learner.layers)
    merged: Any = copy.deepcopy(learner.base)
    merged.norm = copy.deepcopy(learner.norms["t0"][0])
    with torch.no_grad():
        merged.conv.weight[:, :, 1, 1] += conv.weight[:, :, 0, 0]
        merged.grouped.weight[:, :, 1, 1] += grouped.weight[:, :, 0, 0]
    bottleneck = lambda _, args, output: output + linear(args[0])  # noqa: E731
    merged.stem.register_forward_hook(bottleneck)
    same_encoding(learner, merged)


def test_series_adapters_multiply_the_layers_before_them(world: Any) -> None:
    learner = make(world, "adapters", form="series")
    perturbed(world, learner)
    linear, conv, grouped = learner.added["t0"]
    merged: Any = copy.deepcopy(learner.base)
    merged.norm = copy.deepcopy(learner.norms["t0"][0])
    with torch.no_grad():
        square = torch.eye(8) + conv.weight[:, :, 0, 0]
        merged.conv.weight.copy_(torch.einsum("oc,cihw->oihw", square, merged.conv.weight))
    mix = torch.eye(8) + grouped.weight[:, :, 0, 0]
    merged.grouped.register_forward_hook(lambda _, args, output: torch.einsum("oc,bchw->bohw", mix, output))
    merged.stem.register_forward_hook(lambda _, args, output: output + linear(output))
    same_encoding(learner, merged)


def test_lora_merges_into_the_weights(world: Any) -> None:
    learner = make(world, "lora", rank=2, alpha=3.0)
    perturbed(world, learner)
    merged: Any = copy.deepcopy(learner.base)
    assert [merged.get_submodule(name) for name in learner._names] == [
        merged.stem,
        merged.conv,
        merged.pointwise,
    ]
    with torch.no_grad():
        for layer, update in zip(
            (merged.stem, merged.conv, merged.pointwise), learner.added["t0"], strict=True
        ):
            a, b = update[0].weight, update[1].weight
            layer.weight += 3 / 2 * (b.flatten(1) @ a.flatten(1)).view_as(layer.weight)
    same_encoding(learner, merged)


def test_batch_norms_of_a_task_are_trained_copies_with_statistics_of_its_own(world: Any) -> None:
    learner = make(world, "adapters")
    before = copy.deepcopy(learner.base.norm.state_dict())
    world.start(learner, world.tasks[0])
    world.train(learner, world.tasks[0])
    own = learner.norms["t0"][0]
    assert not torch.equal(own.running_mean, before["running_mean"])
    assert not torch.equal(own.weight, before["weight"])
    assert all(torch.equal(value, before[name]) for name, value in learner.base.norm.state_dict().items())


def test_the_option_layers_selects_those_with_updates(world: Any) -> None:
    assert make(world, "lora", rank=2, layers="linear")._names == ["stem"]
    assert make(world, "lora", rank=2, layers="conv")._names == ["conv", "pointwise"]


def test_the_computation_of_an_update_is_not_that_of_the_merged_weight(world: Any) -> None:
    """The gradient is that of the two matrices, W frozen."""
    learner = make(world, "lora", rank=2)
    world.start(learner, world.tasks[0])
    batch = {"x": X}
    functional.mse_loss(learner(batch, "t0"), torch.zeros(4, 2)).backward()
    assert all(weight.grad is None for weight in learner.base.parameters())
    assert any(weight.grad is not None and weight.grad.any() for weight in learner.added["t0"].parameters())


@pytest.mark.parametrize("name", ["adapters", "lora"])
def test_a_base_that_folds_its_norms_computes_with_every_added_layer(name: str, world: Any) -> None:
    resnet, images = load(find(BASE, "resnet20")), {"image": (3, 16, 16)}
    cls = load(find(LEARNER, name))
    components = Components(images, lambda pretrained=True: resnet(resnet.Config(weights="none"), images))
    learner = cls(cls.Config(**({"rank": 2} if name == "lora" else {})), components)
    world.start(learner, world.tasks[0])
    assert len(learner.added["t0"]) == 19
    learner({"image": torch.rand(2, 3, 16, 16)}, "t0").square().sum().backward()
    lasts = [[*added.parameters()][-1] for added in learner.added["t0"]]
    assert all(last.grad is not None and last.grad.any() for last in lasts)


@pytest.mark.parametrize(
    ("name", "options", "base", "message"),
    [
        ("adapters", {}, Bare, "learner 'adapters' finds no layer to add to: .* wider than 1 x 1; choose"),
        ("lora", {"rank": 17}, Mixed, "--learner.rank 17 is more than the 8 inputs or outputs of the widest"),
        ("lora", {"layers": "conv"}, Bare, "in one group and of --learner.layers conv; choose another base"),
    ],
)
def test_a_base_without_such_layers_is_refused(
    name: str, options: dict[str, Any], base: Any, message: str, world: Any
) -> None:
    with pytest.raises(FitError, match=message):
        make(world, name, base, **options)
