"""Forks that read the base's weights: what is added to the frozen layers, and what is stored."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, Continuation, FitError
from sidetune_core.testing import sample

from .test_fork import fork

SHARED = ["adapters", "lora", "norm"]


class Learner(nn.Module):
    """A base and a fork of it."""

    def __init__(self, train: str) -> None:
        super().__init__()
        self.base = sample.TinyBase((8,)).eval().requires_grad_(False)
        self.side = fork(self.base, sample.INPUTS, after=0, train=train)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        encoding: Tensor = self.side(inputs, self.base(inputs))
        return encoding


def keep_apart(first: nn.Module, second: nn.Module) -> None:
    shared = {tensor.data_ptr() for tensor in first.state_dict().values()}
    assert shared.isdisjoint(tensor.data_ptr() for tensor in second.state_dict().values())


@pytest.fixture(scope="module")
def images() -> dict[str, Tensor]:
    return dict(sample.images([0, 1]))


def reads_its_base(learner: Learner, images: dict[str, Tensor]) -> bool:
    """Whether the output changes with the base's second layer, which computes no tap that the fork reads."""
    with torch.no_grad():
        before = learner(images)
        learner.base.second.weight.mul_(2)
        after = learner(images)
        learner.base.second.weight.div_(2)
        assert torch.equal(learner(images), before)
    return not torch.equal(after, before)


@pytest.mark.parametrize("train", SHARED)
def test_frozen_weights_are_the_base_s_and_neither_stored_nor_trained(train: str, images: Any) -> None:
    learner = Learner(train)
    names = {name for name, _ in learner.side.named_parameters()}
    assert not {name for name in learner.side.state_dict() if "second" in name and "added" not in name}
    assert {name for name in names if "norm" not in name and "added" not in name} == set()
    assert reads_its_base(learner, images)
    keep_apart(learner.side, learner.base)


@pytest.mark.parametrize("train", SHARED)
def test_a_copy_of_a_learner_reads_its_own_base(train: str, images: Any) -> None:
    learner = Learner(train)
    for copied in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert torch.equal(copied(images), learner(images))
        assert reads_its_base(copied, images)
        with torch.no_grad():
            copied.base.second.weight.zero_()
        assert learner.base.second.weight.any()


@pytest.mark.parametrize("train", SHARED)
def test_a_fork_moves_with_its_learner(train: str, images: Any) -> None:
    learner = Learner(train)
    before = learner(images)
    learner.double()
    in_double = {name: value.double() for name, value in images.items()}
    torch.testing.assert_close(learner(in_double).float(), before)
    learner.float().to(memory_format=torch.channels_last)
    torch.testing.assert_close(learner(images), before)


@pytest.mark.parametrize("train", SHARED)
def test_a_fork_reads_the_weights_that_are_loaded_into_the_base(train: str, images: Any) -> None:
    first, second = Learner(train), Learner(train)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(images), first(images))


def test_a_layer_whose_weights_are_read_and_that_is_not_called_stays_frozen() -> None:
    class Attentive(sample.TinyReader):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Attention() for _ in range(2))

    side = fork(Attentive().eval(), sample.TEXT, after=0, train="lora")
    assert {name.rpartition(".added")[0] for name, _ in side.named_parameters()} == {
        "continuation.layers.0.feed",
        "continuation.layers.1.feed",
    }


class Attention(nn.Module):
    """Attention as PyTorch has it, which calls none of its layers, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.feed = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, hidden: Tensor) -> Tensor:
        attended: Tensor = self.attend(hidden, hidden, hidden, need_weights=False)[0]
        fed: Tensor = self.feed(attended)
        return fed


def test_a_base_that_gives_other_names_to_its_copy_is_refused() -> None:
    class Inner(Continuation):
        def __init__(self, inner: Continuation) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, tap: Tensor, inputs: Any) -> Tensor:
            encoding: Tensor = self.inner(tap, inputs)
            return encoding

    class Renaming(sample.TinyBase):
        def continued(self, tap: int, keep: Any = None) -> Continuation:
            return Inner(super().continued(tap, keep))

    base: Base = Renaming((8,)).eval()
    with pytest.raises(FitError, match=r"no parameter inner\.last\.weight.*--side\.train full"):
        fork(base, sample.INPUTS, train="lora")
