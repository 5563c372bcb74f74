"""Which bases are served, and what ends it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import sidetune_core
from sidetune_core.api import Base, Features, Heads, Inputs, Learner, Task
from sidetune_core.assembly.build import build_learner, build_stream
from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.config.resolve import resolve
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.feature_cache.frozen import has_additions
from sidetune_core.interfaces.networks import note_structure
from sidetune_core.storage.new_run import create_run
from sidetune_core.system.device import Machine
from sidetune_core.testing import sample
from sidetune_core.training.context import Context
from sidetune_core.training.loop import learn
from sidetune_core.training.recorder import Recorder

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


class Layers(Base):
    """(6,) to (4,); its middle layer has a hook of its own if asked."""

    shape = (4,)

    def __init__(self, own_hook: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)
        if own_hook:
            self.norm.register_forward_hook(lambda _, __, out: out.relu())
        self.calls = Counter[str]()  # no setting of the base, which a number would be
        self.eval().requires_grad_(False)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        self.calls.update(["forward"])
        return Features(self.last(self.norm(self.first(inputs["x"]))))


def batch() -> Inputs:
    return Inputs({"x": X}, torch.arange(8))


def attached(base: Base) -> FeatureCache:
    cache = FeatureCache(2**20, taps=(), info=[].append)
    cache.attach(base, "fp32")
    return cache


def add_hook(base: Any) -> None:
    base.first.register_forward_hook(lambda _, __, out: 2 * out)


def add_pre_hook(base: Any) -> None:
    base.last.register_forward_pre_hook(lambda _, args: (args[0] + 1,))


def hook_the_base(base: Any) -> None:
    base.register_forward_hook(lambda _, __, out: Features(out.encoding + 1))


def replace_forward(base: Any) -> None:
    base.first.forward = lambda x: x[:, :5]


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrise(base: Any) -> None:
    nn.utils.parametrize.register_parametrization(base.first, "weight", Doubled())
    base.requires_grad_(False)


def replace_module(base: Any) -> None:
    base.set_submodule("first", nn.Sequential(nn.Linear(6, 5).requires_grad_(False)).eval())


ADDITIONS = [add_hook, add_pre_hook, hook_the_base, replace_forward, parametrise, replace_module]


@pytest.mark.parametrize("add", ADDITIONS)
def test_a_base_that_was_added_to_is_not_served(add: Callable[[Base], None]) -> None:
    base = Layers()
    note_structure(base)
    add(base)
    attached(base)
    assert base.cache is None


@pytest.mark.parametrize("add", ADDITIONS)
def test_what_is_added_while_a_base_is_served_ends_it(add: Callable[[Base], None]) -> None:
    base = Layers()
    attached(base)
    base(batch())
    add(base)
    expected = base({"x": X}).encoding
    assert torch.equal(base(batch()).encoding, expected)


def test_the_user_reads_once_that_a_base_is_not_served() -> None:
    base, lines = Layers(), list[str]()
    add_hook(base)
    cache = FeatureCache(2**20, taps=(), info=lines.append)
    cache.attach(base, "fp32")
    cache.attach(base, "fp32")
    assert len(lines) == 1
    assert "Layers is computed at every visit" in lines[0]


def test_a_base_is_served_with_the_hooks_that_it_was_built_with() -> None:
    base = Layers(own_hook=True)
    note_structure(base)
    for served in (base, copy.deepcopy(base)):
        attached(served)
        served(batch())
        served(batch())
        assert served.calls.total() == 1


def test_the_core_notes_what_a_base_was_built_with() -> None:
    spec = sidetune_core.RunSpec(
        env="digits", learner="features", base={"name": "resnet20", "weights": "none"}
    )
    resolved = resolve(spec)
    with closing(build_stream(resolved)) as stream:
        learner: Any = build_learner(resolved, stream)
    assert learner.base._built_as is not None
    assert not has_additions(learner.base)
    learner.base.layer1.register_forward_hook(lambda *_: None)
    assert has_additions(learner.base)


def test_a_copy_of_a_traced_network_is_as_it_was_built() -> None:
    """Every copy of a graph, as torchvision's feature extractors are, has a class of its own."""
    base = Layers()
    base.last = torch.fx.symbolic_trace(base.last)  # type: ignore[assignment]
    note_structure(base)
    assert not has_additions(copy.deepcopy(base))


def test_a_base_is_served_again_when_a_hook_is_removed() -> None:
    base = Layers()
    attached(base)
    expected = base(batch()).encoding
    with base.first.register_forward_hook(lambda _, __, out: 2 * out):
        assert not torch.equal(base(batch()).encoding, expected)
    assert torch.equal(base(batch()).encoding, expected)
    assert base.calls.total() == 2


def test_hooks_on_all_modules_are_called() -> None:
    base = Layers()
    attached(base)
    base(batch())
    called: list[nn.Module] = []
    with nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(module)):
        base(batch())
    assert base.first in called


def test_a_trainable_adapter_in_a_hook_has_a_gradient() -> None:
    base, adapter = Layers(), nn.Linear(6, 5)
    base.first.register_forward_hook(lambda _, args, out: out + adapter(args[0]))
    attached(base)
    base(batch()).encoding.sum().backward()
    assert adapter.weight.grad is not None


def test_other_weights_of_a_functional_call_are_used() -> None:
    base = Layers()
    attached(base)
    base(batch())
    weights = {"last.weight": torch.ones(4, 5), "last.bias": torch.zeros(4)}
    called = torch.func.functional_call(base, weights, (batch(),))
    assert torch.equal(called.encoding, torch.func.functional_call(base, weights, ({"x": X},)).encoding)


def set_training(base: Any) -> None:
    base.norm.train()


def set_trainable(base: Any) -> None:
    base.last.requires_grad_(True)


@pytest.mark.parametrize("thaw", [set_training, set_trainable])
def test_a_base_that_is_no_longer_frozen_is_computed(thaw: Callable[[Base], None]) -> None:
    base = Layers()
    attached(base)
    base(batch())
    thaw(base)
    base(batch())
    assert base.calls.total() == 2


def test_a_base_of_which_one_module_is_in_training_mode_is_not_served() -> None:
    base = Layers()
    base.norm.train()
    attached(base)
    assert base.cache is None


def test_weights_written_in_place_are_used() -> None:
    base = Layers()
    attached(base)
    base(batch())
    with torch.no_grad():
        base.last.weight.mul_(2)
    assert torch.equal(base(batch()).encoding, base({"x": X}).encoding)


def test_the_same_weights_written_in_place_are_served() -> None:
    base = Layers()
    attached(base)
    base(batch())
    with torch.no_grad():
        base.last.weight.copy_(base.last.weight.clone())
    base(batch())
    assert base.calls.total() == 1


def test_a_copy_of_a_served_base_is_not_served() -> None:
    base = Layers()
    attached(base)
    assert copy.deepcopy(base).cache is None


class Scaling(Learner):
    """Scales the channels of the base's first convolution, by a factor of each task, in a hook."""

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self) -> None:
        super().__init__()
        self.base = sample.TinyBase((8,))
        note_structure(self.base)
        self.heads, self.scales, self.task = Heads(self.base.shape), nn.ParameterDict(), ""
        self.base.first.register_forward_hook(self._scale)

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        self.scales[task.id] = nn.Parameter(torch.ones(8, 1, 1))
        return [self.scales[task.id], self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        self.task = task_id
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def _scale(self, _: nn.Module, __: object, out: Tensor) -> Tensor:
        return out * self.scales[self.task]


def scales_after_a_run(cache: FeatureCache | None, folder: Path) -> list[Tensor]:
    torch.manual_seed(0)
    learner = Scaling()
    run = create_run(folder, "scaling")
    options = TrainOptions(steps=6, batch_size=8, lr=0.01)
    machine = Machine(torch.device("cpu"), bf16=False, channels_last=False)
    learn(learner, sample.tasks(), Context(options, 0, machine, cache=cache), Recorder(run))
    return [*learner.scales.values()]


def test_a_learner_that_hands_on_ids_to_a_base_with_its_hooks_trains_as_without_the_cache(
    tmp_path: Path,
) -> None:
    cache = FeatureCache(2**20, taps=(), info=lambda _: None)
    scales = scales_after_a_run(cache, tmp_path / "cached")
    expected = scales_after_a_run(None, tmp_path / "plain")
    assert all((scale != 1).any() for scale in scales)
    assert all(map(torch.equal, scales, expected))
