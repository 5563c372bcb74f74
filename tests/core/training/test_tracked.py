"""A followed learner has the modules, tensors and digests that walking over it finds."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sidetune_core import hashing
from sidetune_core.certificate import probes
from sidetune_core.errors import PluginError
from sidetune_core.interfaces.inputs import Features, Inputs
from sidetune_core.interfaces.networks import Base
from sidetune_core.storage.chain import Chain
from sidetune_core.storage.checkpoint_content import content_of_changes, make_content
from sidetune_core.system.device import Machine
from sidetune_core.training.tracked import Difference, TrackedLearner, is_thorough


class Counting(nn.Module):
    """A module with state of its own next to its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.weight = nn.Parameter(torch.rand(2))

    def get_extra_state(self) -> int:
        return self.count

    def set_extra_state(self, state: int) -> None:
        self.count = state


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Conv2d(1, 2, 1))
        self.sides = nn.ModuleDict()
        self.counting = Counting()
        self.tied = self.base[0]
        self.shared = self.base[0].weight
        self.register_buffer("mask", torch.ones(3), persistent=False)


def follow(learner: nn.Module) -> TrackedLearner:
    return TrackedLearner(learner)  # type: ignore[arg-type]


def check(tracked: TrackedLearner) -> None:
    """Everything is what PyTorch's own methods return."""
    learner = tracked.learner
    named = dict(probes.named_tensors(learner))
    assert dict(tracked.named_digests) == hashing.digests(named)
    assert tracked.tensors.keys() == named.keys()
    assert all(tracked.tensors[name] is tensor for name, tensor in named.items())
    state = {key: value for key, value in learner.state_dict().items() if isinstance(value, Tensor)}
    assert list(tracked.state_digests().items()) == list(hashing.digests(state).items())
    assert tracked.state_keys == list(learner.state_dict())
    assert list(tracked.modules) == [module for _, module in learner.named_modules(remove_duplicate=False)]
    assert list(map(id, tracked.parameters)) == list(map(id, learner.parameters()))
    expected = [id(one) for one in learner.parameters() if one.requires_grad]
    assert set(map(id, tracked.trainable())) <= set(expected)
    at = {one: sorted(names) for one, names in tracked.names_at.items() if one}
    own = dict[int, list[str]]()
    for name, tensor in named.items():
        own.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    assert at == {one: sorted(names) for one, names in own.items() if one}


def some_linear(learner: nn.Module, draw: random.Random) -> nn.Module:
    return draw.choice([one for one in learner.modules() if isinstance(one, nn.Linear)])


def add_side(learner: Small, draw: random.Random) -> None:
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.Linear(2, draw.randint(1, 3)),
        lambda: nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2)),
        Counting,
        lambda: learner.base[0],
    ]
    learner.sides[f"s{draw.randint(0, 5)}"] = draw.choice(kinds)()


def remove_side(learner: Small, draw: random.Random) -> None:
    if learner.sides:
        del learner.sides[draw.choice(list(learner.sides))]


def write(learner: Small, draw: random.Random) -> None:
    with torch.no_grad():
        some_linear(learner, draw).weight.add_(1)


def swap(learner: Small, draw: random.Random) -> None:
    linear = some_linear(learner, draw)
    linear.weight = nn.Parameter(linear.weight.detach() * 2)


def assign_data(learner: Small, draw: random.Random) -> None:
    some_linear(learner, draw).weight.data = torch.rand(2, 3)


def write_buffer(learner: Small, draw: random.Random) -> None:
    learner.mask.mul_(2)
    learner.base[1].running_mean.add_(1)


def replace_buffer(learner: Small, draw: random.Random) -> None:
    learner.mask = torch.rand(draw.randint(1, 4))


def delete_buffer(learner: Small, draw: random.Random) -> None:
    if draw.random() < 0.5 or "extra" in learner._buffers:
        learner._buffers.pop("extra", None)
    else:
        learner.register_buffer("extra", torch.rand(2), persistent=draw.random() < 0.5)


def load(learner: Small, draw: random.Random) -> None:
    state = {
        key: torch.rand_like(value) if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in learner.state_dict().items()
    }
    learner.load_state_dict(state)


def drop_bias(learner: Small, draw: random.Random) -> None:
    some_linear(learner, draw).bias = None


def rename(learner: Small, draw: random.Random) -> None:
    if learner.sides:
        learner.sides["renamed"] = learner.sides.pop(draw.choice(list(learner.sides)))


def remove_or_restore_part(learner: Small, draw: random.Random) -> None:
    learner.part = None if learner._modules.get("part") is not None else nn.Linear(2, 2)


CHANGES = (
    *(add_side, add_side, remove_side, write, swap, assign_data, write_buffer, replace_buffer),
    *(delete_buffer, load, drop_bias, rename, remove_or_restore_part),
)


@pytest.mark.parametrize("seed", range(12))
def test_random_changes_are_followed_in_digests_lists_and_checkpoints(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    learner = Small()
    tracked = follow(learner)
    check(tracked)
    journal, chain = tracked.journal({}), Chain(Path("x"))
    for _ in range(25):
        before = dict(tracked.digests)
        for _ in range(draw.randint(0, 3)):
            draw.choice(CHANGES)(learner, draw)
        learner.counting.count += draw.randint(0, 1)
        difference = tracked.refresh()
        check(tracked)
        after = tracked.digests
        assert difference.gone == before.keys() - after.keys()
        assert difference.new == after.keys() - before.keys()
        assert difference.changed == {name for name, old in before.items() if old != after.get(name, old)}
        whole = make_content(learner.state_dict(), {}, [], {}, None)
        changes = tracked.changes(journal)
        assert not isinstance(changes, nn.Module)
        path = chain.folder / f"after-{len(chain.steps) + 1:03d}.safetensors"
        step, text = chain.plan(path, whole)
        assert chain.plan(path, content_of_changes(changes, {}, [], {}, None))[1] == text
        if draw.random() < 0.5:
            chain.extend(step)
            tracked.forget(journal)
            journal = tracked.journal()


def test_a_write_through_data_is_seen_where_training_was_allowed() -> None:
    learner = Small()
    tracked = follow(learner)
    tracked.set_trainable([learner.base[0]])
    learner.base[0].weight.data.add_(1)
    tracked.freeze()
    assert tracked.refresh().changed == {"base.0.weight", "tied.weight", "shared"}
    check(tracked)


def test_tensors_that_share_memory_change_together() -> None:
    learner = Small()
    learner.view = nn.Parameter(learner.base[0].weight.data[:1])
    tracked = follow(learner)
    with torch.no_grad():
        learner.base[0].weight.add_(1)
    assert "view" in tracked.refresh().changed


def test_a_write_that_pytorch_does_not_record_is_found_by_a_thorough_refresh() -> None:
    learner = Small()
    tracked = follow(learner)
    tracked.freeze()
    tracked.refresh(thorough=True)
    learner.base[0].bias.detach().numpy()[:] = np.ones(3)
    assert tracked.refresh(thorough=True).changed == {"base.0.bias", "tied.bias"}
    learner.base[0].bias.data.add_(1)
    assert tracked.refresh().changed, "such a learner is hashed whole from then on"


def test_a_write_that_went_unnoticed_for_some_stages_is_an_error_that_names_the_tensor() -> None:
    learner = Small()
    learner.many = nn.ParameterList(nn.Parameter(torch.rand(1)) for _ in range(100))
    tracked = follow(learner)
    tracked.freeze()
    tracked.refresh(decides=True)
    tracked.refresh(decides=True)
    learner.many[90].data.add_(1)
    with pytest.raises(PluginError, match=r"Small writes to many\.90 through \.data.*--train\.evaluate all"):
        tracked.refresh(thorough=True, decides=True)


def test_the_sample_comes_round_to_every_tensor() -> None:
    learner = Small()
    tracked = follow(learner)
    tracked.freeze()
    tracked.refresh(decides=True)
    tracked.refresh(decides=True)
    learner.base[2].weight.data.add_(1)

    def refresh_often() -> None:
        for _ in range(10):
            tracked.refresh(decides=True)

    with pytest.raises(PluginError, match=r"base\.2\.weight"):
        refresh_often()


def test_a_state_dict_made_by_code_of_its_own_is_hashed_whole() -> None:
    class Doubling(nn.Linear):
        def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
            destination[prefix + "doubled"] = self.weight.detach() * 2

    learner = Small()
    learner.sides["own"] = Doubling(2, 2)
    tracked = follow(learner)
    check(tracked)
    with torch.no_grad():
        learner.sides["own"].weight.add_(1)
    assert tracked.refresh().changed == {"sides.own.weight", "sides.own.doubled"}
    assert tracked.changes(tracked.journal()) is learner
    del learner.sides["own"]
    assert tracked.refresh().gone == {"sides.own.weight", "sides.own.bias", "sides.own.doubled"}
    check(tracked)


def test_freezing_and_releasing_are_those_of_whole_walks() -> None:
    torch.manual_seed(0)
    learner, other = Small(), Small()
    tracked = follow(learner)
    for trainable in (["base.1", "sides"], ["base.0"], []):
        for one in (learner, other):
            one.sides["new"] = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
        tracked.set_trainable([learner.get_submodule(name) for name in trainable])
        other.requires_grad_(False)
        other.eval()
        for name in trainable:
            other.get_submodule(name).requires_grad_(True).train()
        for mine, theirs in zip(learner.modules(), other.modules(), strict=True):
            assert mine.training == theirs.training
        for mine, theirs in zip(learner.parameters(), other.parameters(), strict=True):
            assert mine.requires_grad == theirs.requires_grad
        expected = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        assert list(map(id, tracked.trainable())) == list(map(id, expected))


def test_a_module_that_decides_on_the_mode_of_its_parts_is_asked() -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Dropout()
            self.modes: list[bool] = []

        def train(self, mode: bool = True) -> Owner:
            self.modes.append(mode)
            return super().train(mode)

    learner = nn.Sequential(Owner())
    tracked = follow(learner)
    tracked.freeze()
    tracked.set_trainable([learner[0].part])
    tracked.freeze()
    assert learner[0].modes == [False, False]
    assert not learner[0].part.training


def test_only_what_is_new_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(torch.device("cpu"), "fp32", torch.channels_last)
    placed: list[nn.Module] = []
    original = Machine.place

    def place(self: Machine, module: nn.Module) -> None:
        placed.append(module)
        original(self, module)

    monkeypatch.setattr(Machine, "place", place)
    learner = Small()
    tracked = follow(learner)
    tracked.place(machine)
    assert placed == [learner]
    tracked.place(machine)
    learner.sides["a"] = nn.Sequential(nn.Conv2d(2, 2, 2))
    tracked.refresh(thorough=True)
    tracked.place(machine)
    assert placed == [learner, learner.sides["a"][0]]
    assert learner.sides["a"][0].weight.is_contiguous(memory_format=torch.channels_last)
    tracked.place(machine)
    assert len(placed) == 2


def test_what_the_learner_does_not_own_cannot_be_trained() -> None:
    tracked = follow(Small())
    tracked.check_owned([tracked.learner.base, tracked.learner.base[0].weight], "start")
    with pytest.raises(PluginError, match=r"Small.start\(\) returned a Linear that it does not own"):
        tracked.check_owned([nn.Linear(1, 1)], "start")


def test_bases_are_listed_once() -> None:
    class Tiny(Base):
        def __init__(self) -> None:
            nn.Module.__init__(self)

        def forward(self, inputs: Inputs) -> Features:
            raise AssertionError

    learner = nn.ModuleDict({"a": Tiny(), "b": nn.Linear(1, 1)})
    learner["again"] = learner["a"]
    assert follow(learner).bases == [learner["a"]]


def test_a_journal_forgets_what_has_its_former_bits_again() -> None:
    learner = nn.Linear(1, 1)
    tracked = follow(learner)
    journal = tracked.journal()
    with torch.no_grad():
        learner.weight.add_(1)
        tracked.refresh()
        learner.bias.add_(1)
        learner.weight.copy_(learner.weight - 1)
    learner.register_parameter("extra", nn.Parameter(torch.ones(1)))
    tracked.refresh()
    assert journal.difference(tracked.digests).new == {"extra"}
    assert "bias" in journal.difference(tracked.digests).changed
    del learner.extra
    tracked.refresh()
    assert journal.difference(tracked.digests) in (
        Difference(frozenset({"bias"})),
        Difference(frozenset({"bias", "weight"})),  # if rounding keeps the sum from being undone
    )


def test_stages_are_thorough_at_first_and_whenever_their_number_has_doubled() -> None:
    assert [stage for stage in range(1, 70) if is_thorough(stage)] == [*range(1, 9), 16, 32, 64]


# Parts of a refresh


def test_a_write_outside_of_what_is_looked_at_is_found_by_the_next_refresh() -> None:
    learner = nn.Sequential(*(nn.Linear(1, 1) for _ in range(40)))
    tracked = follow(learner)
    tracked.freeze()
    tracked.refresh()
    with torch.no_grad():
        for layer in learner:
            layer.weight.add_(1)
    looked_at, rest = tracked.refresh(within=["5.weight"]), tracked.refresh()
    assert "5.weight" in looked_at.changed
    assert rest.changed
    assert looked_at.changed.isdisjoint(rest.changed)
    assert looked_at.changed | rest.changed == {f"{number}.weight" for number in range(40)}
    assert not tracked.writes_unseen
    check(tracked)


def test_parts_that_come_last_are_read_in_their_order() -> None:
    learner = Small()
    tracked = follow(learner)
    for number in range(4):
        learner.sides[f"t{number}"] = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        learner.sides[f"u{number}"] = nn.Linear(1, 1)
        tracked.refresh(within=())
        check(tracked)
    learner.sides["t1"] = nn.Linear(5, 5)
    learner.sides["v"] = nn.Linear(1, 1)
    tracked.refresh(within=())
    check(tracked)
    del learner.sides["u0"]
    learner.sides["w"] = nn.Linear(1, 1)
    tracked.refresh(within=())
    check(tracked)
