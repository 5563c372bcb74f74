"""Binary superposition: its keys, the weights they multiply, and fine-tuning as the limit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sidetune_core
from sidetune_core.api import Base, ClassTask, Components, Examples, Features, FitError, seeded
from sidetune_core.config.kinds import LEARNER
from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.config.registry import find, load
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.storage.clock import Clock
from sidetune_core.storage.new_run import create_run
from sidetune_core.system.device import Machine
from sidetune_core.system.progress import Progress
from sidetune_core.testing import check_plugin
from sidetune_core.training import loop
from sidetune_core.training.context import Context
from sidetune_core.training.run_recorder import RunRecorder

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
INPUTS = {"x": X}


class ConvBase(Base):
    """(2, 8) to (3,): a convolution and a linear layer, both with a bias."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape = (3,)
        self.conv = nn.Conv1d(2, 4, 3)
        self.linear = nn.Linear(4, 3)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.linear(self.conv(inputs["x"]).relu().mean(2)))


class ExtraDraws(ConvBase):
    """Draws more random numbers than it needs."""

    def __init__(self, pretrained: bool = True) -> None:
        torch.rand(7)
        super().__init__()


def learner_on(base: type[Base], seed: int = 0, name: str = "bsp", **options: Any) -> Any:
    cls = load(find(LEARNER, name))
    with seeded(seed, "build"):
        return cls(cls.Config(norm=False, **options), Components({"x": (2, 8)}, base))


def started(world: Any, learner: Any, count: int = 3) -> Any:
    for task in world.tasks[:count]:
        world.start(learner, task)
    return learner.eval()


def like(learner: Any, other: Any) -> Any:
    """`learner` with the weights of `other`."""
    learner.load_state_dict(other.state_dict(), strict=False)
    return learner


def test_two_layers_with_one_weight_are_refused() -> None:
    class Tied(Base):
        shape = (8,)

        def __init__(self, pretrained: bool = True) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, inputs: Mapping[str, Tensor]) -> Features:
            return Features(self.second(self.first(inputs["x"][:, 0])))

    with pytest.raises(FitError, match="two layers here have one weight"):
        learner_on(Tied)


# Keys


def test_keys_are_signs_half_of_them_negative() -> None:
    signs = learner_on(ConvBase, period=400).keys.signs
    assert set(signs.unique().tolist()) == {-1, 1}
    assert signs.shape == (400, 2 * 3 + 4)  # the inputs of the convolution's kernel and of the linear layer
    assert abs(signs.float().mean()) < 4 / signs.numel() ** 0.5


def test_keys_of_different_tasks_differ_until_the_period_is_over(world: Any) -> None:
    keys = world.learner("bsp", period=10).keys
    assert len(keys.signs.unique(dim=0)) == 10
    assert torch.equal(keys(13), keys(3))
    assert torch.equal(keys(10), keys(0))


def test_without_a_period_every_task_has_a_key_of_its_own_as_with_a_long_one(world: Any) -> None:
    keys = started(world, learner_on(ConvBase)).keys
    signs = learner_on(ConvBase, period=10).keys.signs
    assert sorted(keys.signs) == ["0", "1", "2"]
    assert all(torch.equal(keys(number), signs[number]) for number in range(3))


def test_keys_depend_on_the_seed_and_on_nothing_else() -> None:
    signs = learner_on(ConvBase, period=10).keys.signs
    assert torch.equal(learner_on(ExtraDraws, period=10).keys.signs, signs)
    assert not torch.equal(learner_on(ConvBase, seed=1, period=10).keys.signs, signs)


def test_drawing_keys_leaves_the_random_weights_of_the_parts_as_in_fine_tuning(world: Any) -> None:
    tuned = started(world, world.learner("finetune"))
    state = started(world, world.learner("bsp", batchnorm="trained")).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in tuned.state_dict().items())


@pytest.mark.parametrize("batchnorm", ["trained", "frozen", "per-task"])
def test_keys_are_never_trained(batchnorm: str, world: Any) -> None:
    learner = world.learner("bsp", batchnorm=batchnorm, period=10)
    before = learner.keys.signs.clone()
    for task in world.tasks:
        world.start(learner, task)
        world.train(learner, task)
    assert torch.equal(learner.keys.signs, before)
    assert list(learner.keys.parameters()) == []


# Weights and keys


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_task_computes_with_the_weights_times_its_key(index: int, world: Any) -> None:
    learner = started(world, learner_on(ConvBase, period=10))
    base, head = learner.base, learner.heads[f"t{index}"].linear
    x = torch.randn(5, 2, 8)
    conv, linear = learner.keys.signs[index].float().split([6, 4])
    maps = functional.conv1d(x, base.conv.weight * conv.view(2, 3), base.conv.bias).relu().mean(2)
    expected = head((maps * linear) @ base.linear.weight.T + base.linear.bias)
    torch.testing.assert_close(learner({"x": x}, f"t{index}"), expected)


def test_every_linear_layer_of_base_side_and_merger_has_keys_and_no_head(world: Any) -> None:
    learner = started(world, world.learner("bsp", merger="mlp2", period=10))
    layers = [
        layer
        for module in (learner.base, learner.side, learner.merger)
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
    ]
    assert len(layers) == 6
    assert learner.keys.signs.shape[1] == sum(layer.in_features for layer in layers)


def test_the_first_task_uses_the_pretrained_weights_unchanged(world: Any) -> None:
    learner = started(world, world.learner("bsp"))
    plain = like(started(world, world.learner("finetune")), learner)
    assert torch.equal(learner(INPUTS, "t0"), plain(INPUTS, "t0"))
    assert not torch.equal(learner(INPUTS, "t1"), plain(INPUTS, "t1"))


def test_a_random_first_key_with_weights_multiplied_by_it_beforehand_is_the_same_bit_for_bit(
    world: Any,
) -> None:
    plain = learner_on(ConvBase, period=10)
    keyed = copy.deepcopy(plain)
    first = plain.keys.signs[1]
    keyed.keys.signs *= first
    conv, linear = first.split([6, 4])
    keyed.base.conv.weight.data *= conv.view(2, 3)
    keyed.base.linear.weight.data *= linear
    for task in classification(APART):
        for learner in (plain, keyed):
            world.start(learner, task)
            world.train(learner, task)
        x = torch.randn(5, 2, 8)
        assert torch.equal(plain({"x": x}, task.id), keyed({"x": x}, task.id))


def test_an_earlier_task_is_still_predicted_with_its_own_key(world: Any) -> None:
    learner = started(world, world.learner("bsp"), count=1)
    before = learner(INPUTS, "t0")
    started(world, learner)
    assert torch.equal(learner(INPUTS, "t0"), before)


def test_each_task_has_batch_norms_of_its_own(world: Any) -> None:
    learner = world.learner("bsp", merger=None, side=False)
    for task in world.tasks[:2]:
        world.start(learner, task)
        world.train(learner, task)
    (first,), (second,) = learner.norms["t0"], learner.norms["t1"]
    assert not torch.equal(first.running_mean, second.running_mean)
    assert not torch.equal(first.weight, second.weight)
    assert torch.equal(learner.base.norm.running_mean, torch.zeros(16))


# The feature cache


SAME, APART = ((0, 1), (0, 1)), ((0, 1), (2, 3))
"""The classes of two tasks: the same examples, or others."""


def classification(classes: tuple[tuple[int, ...], ...]) -> list[ClassTask]:
    """Tasks for `ConvBase`."""
    generator = torch.Generator().manual_seed(0)
    x = {split: torch.randn(48, 2, 8, generator=generator) for split in ("train", "test")}
    examples = Examples(x, {split: torch.arange(48) % 4 for split in x})
    return [
        ClassTask(f"t{k}", f"task {k}", examples, own, input="x", transform=torch.Tensor.float)
        for k, own in enumerate(classes)
    ]


def learn(learner: Any, tasks: list[ClassTask], folder: Path, cache: FeatureCache | None) -> list[Any]:
    run = create_run(folder, "run")
    machine = Machine(torch.device("cpu"), bf16=False, channels_last=False)
    options = TrainOptions(steps=3, batch_size=8, lr=0.05)
    recorder = RunRecorder(run, Progress(quiet=True), Clock(run, machine.peak_memory))
    loop.learn(learner, tasks, Context(options, 0, machine, cache=cache), recorder)
    return run.lines("eval.jsonl")


def make_cache() -> FeatureCache:
    return FeatureCache(limit=2**20, taps=(), info=lambda _: None)


@pytest.mark.parametrize("classes", [SAME, APART], ids=["same", "apart"])
def test_the_feature_cache_changes_no_result(classes: tuple[tuple[int, ...], ...], tmp_path: Path) -> None:
    with_cache = learn(
        learner_on(ConvBase, batchnorm="trained"), classification(classes), tmp_path / "cache", make_cache()
    )
    assert with_cache == learn(
        learner_on(ConvBase, batchnorm="trained"), classification(classes), tmp_path / "none", None
    )


def test_nothing_is_left_in_the_cache_for_learners_of_the_plain_base(tmp_path: Path) -> None:
    shared, tasks = make_cache(), classification(APART)
    learn(learner_on(ConvBase, batchnorm="trained"), tasks, tmp_path / "bsp", shared)
    after = learn(learner_on(ConvBase, name="features"), tasks, tmp_path / "after", shared)
    assert shared.used > 0
    assert after == learn(learner_on(ConvBase, name="features"), tasks, tmp_path / "alone", None)


# Whole runs

TRAIN = {"steps": 6, "batch": 8, "precision": "fp32"}


def run(archive: Path, out: Path, learner: dict[str, Any], **train: Any) -> sidetune_core.Run:
    components = {
        slot: {"name": name, "weights": "none"} for slot, name in (("base", "resnet20"), ("side", "fcn4"))
    }
    env = {"name": "images", "archive": archive, "classes_per_task": 2}
    return sidetune_core.run(
        sidetune_core.RunSpec(**components, learner=learner, env=env, train={**TRAIN, **train}), out
    )


@pytest.mark.parametrize("batchnorm", ["trained", "per-task"])
def test_bsp_with_keys_of_plus_one_equals_fine_tuning_bit_for_bit(
    batchnorm: str, image_archive: Path, tmp_path: Path
) -> None:
    tuned = run(image_archive, tmp_path / "finetune", {"name": "finetune", "batchnorm": batchnorm})
    bsp = run(image_archive, tmp_path / "bsp", {"name": "bsp", "batchnorm": batchnorm, "period": 1})
    state = bsp.learner.state_dict()
    assert state["keys.signs"].unique().tolist() == [1]
    assert bsp.results.rows == tuned.results.rows
    assert all(torch.equal(value, state[name]) for name, value in tuned.learner.state_dict().items())


def test_a_run_is_the_same_with_and_without_the_feature_store(image_archive: Path, tmp_path: Path) -> None:
    stored, computed = (
        run(image_archive, tmp_path / how, {"name": "bsp"}, store=how) for how in ("memory", "off")
    )
    assert stored.folder.lines("eval.jsonl") == computed.folder.lines("eval.jsonl")


@pytest.mark.parametrize("options", [{"batchnorm": "trained", "period": 1}, {"batchnorm": "frozen"}], ids=str)
def test_bsp_conforms_and_resumes_with_other_options_than_the_defaults(options: dict[str, Any]) -> None:
    assert [
        finding for finding in check_plugin("learner", "sidetune/bsp", options) if not finding.passed
    ] == []
