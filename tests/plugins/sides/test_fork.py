"""The fork: a trainable copy of what the base computes after one tap."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from sidetune_plugins.sides.fork.selection import choose_blocks
from torch import Tensor, nn

from sidetune_core.api import Base, Block, Features, FitError, OptionError, seeded
from sidetune_core.config.kinds import BASE, SIDE
from sidetune_core.config.registry import find, load
from sidetune_core.testing import check_plugin, sample

INPUTS = {"image": (3, 16, 16)}
MODES = ["full", "adapters", "lora", "norm"]


def resnet(name: str = "resnet20") -> Any:
    """A CIFAR ResNet with random weights and random statistics of its norms."""
    cls = load(find(BASE, name))
    with seeded(0, name):
        base = cls(cls.Config(weights="none"), INPUTS)
        for module in base.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
    return base.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def base() -> Any:
    return resnet()


@pytest.fixture(scope="module")
def resnet44() -> Any:
    return resnet("resnet44")


@pytest.fixture(scope="module")
def images() -> dict[str, Tensor]:
    return {"image": torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


def fork(base: Base, inputs: Any = INPUTS, **options: Any) -> Any:
    cls = load(find(SIDE, "fork"))
    return cls(cls.Config(**options), inputs, base).eval()


def refusal(base: Base, inputs: Any = INPUTS, **options: Any) -> str:
    with pytest.raises(FitError) as refused:
        fork(base, inputs, **options)
    return str(refused.value)


@contextmanager
def unfolded(base: Base) -> Iterator[None]:
    """A CIFAR ResNet folds frozen norms into convolutions, which rounds otherwise; not within this block."""
    base.requires_grad_(True)
    yield
    base.requires_grad_(False)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("train", MODES)
@pytest.mark.parametrize("tap", [0, 1, 2])
def test_at_first_its_encoding_is_the_base_s_bit_for_bit(
    train: str, tap: int, base: Any, images: Any
) -> None:
    side = fork(base, after=tap, train=train)
    with unfolded(base):
        features = base(images)
        assert torch.equal(side(images, features), features.encoding)


@pytest.mark.parametrize("train", MODES)
def test_at_first_it_is_the_frozen_base_to_rounding(train: str, base: Any, images: Any) -> None:
    features = base(images)
    with torch.no_grad():
        torch.testing.assert_close(fork(base, train=train)(images, features), features.encoding)


def test_it_reads_one_tap_and_no_other(base: Any, images: Any) -> None:
    side, features = fork(base, after=1), base(images)
    assert side.tap_indices == (1,)
    others = tuple(tap if index == 1 else tap.new_zeros(5, 0) for index, tap in enumerate(features.taps))
    blank = Features(torch.zeros(5, 0), others)
    assert torch.equal(side({}, blank), side(images, features))


@pytest.mark.parametrize("name", ["resnet20", "resnet44"])
def test_without_a_choice_it_begins_where_a_third_of_the_cost_is_left(name: str) -> None:
    assert fork(resnet(name)).tap_indices == (2,)  # the stages cost the same


def test_without_blocks_it_begins_at_the_last_tap_that_something_trainable_follows() -> None:
    class Plain(sample.TinyBase):
        def blocks(self) -> tuple[Block, ...]:
            return ()

    assert fork(Plain((8,)), sample.INPUTS).tap_indices == (1,)
    assert fork(Plain((8,)), sample.INPUTS, train="norm").tap_indices == (0,)


def test_a_tap_that_the_base_cannot_be_continued_from_is_passed_over() -> None:
    class Partial(sample.TinyBase):
        def continued(self, tap: int, keep: Any = None) -> Any:
            if tap == 1:
                raise FitError("tap 1 is not enough")
            return super().continued(tap, keep)

    assert fork(Partial((8,)), sample.INPUTS).tap_indices == (0,)
    assert "tap 1 is not enough" in refusal(Partial((8,)), sample.INPUTS, after=1)


def test_a_negative_tap_counts_from_the_last(base: Any) -> None:
    assert fork(base, after=-3).tap_indices == (1,)


def test_a_number_of_blocks_is_spread_evenly_over_those_after_the_tap(resnet44: Any) -> None:
    layers = fork(resnet44, blocks=(4,)).continuation.layer3
    assert [name for name, _ in layers.named_children()] == ["0", "2", "4", "6"]


@pytest.mark.parametrize(
    ("needed", "count", "kept"),
    [
        ((), 1, [2]),
        ((), 3, [2, 4, 6]),
        ((), 5, [2, 3, 4, 5, 6]),
        ((3,), 2, [3, 6]),
        ((3, 5), 3, [3, 5, 6]),
        ((2, 3), 2, [2, 3]),
    ],
)
def test_blocks_that_are_needed_replace_their_neighbours(
    needed: tuple[int, ...], count: int, kept: list[int]
) -> None:
    blocks = [Block(f"b{number}", number - 2, number not in needed) for number in range(7)]
    assert choose_blocks(blocks, 5, 0, (count,)) == kept


def test_some_blocks_compute_what_the_base_s_would_without_the_others(resnet44: Any, images: Any) -> None:
    features = resnet44(images)
    with torch.no_grad():
        expected = features.taps[2]
        for number in (14, 16, 19):
            expected = resnet44.layer3[number - 14](expected)
        encoding = fork(resnet44, blocks=(19, 14, 16))(images, features)
    torch.testing.assert_close(encoding, expected.mean((2, 3)))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 499_456),
        ({"blocks": (4,)}, 277_504),
        ({"train": "adapters"}, 64 * 32 + 13 * 64 * 64 + 14 * 128),
        ({"train": "lora", "rank": 16}, 9 * 16 * (32 + 13 * 64) + 14 * 16 * 64 + 14 * 128),
        ({"train": "norm"}, 14 * 128),
    ],
    ids=str,
)
def test_it_trains_as_many_weights_as_documented(options: Any, count: int, resnet44: Any) -> None:
    assert size(fork(resnet44, **options)) == count


def test_training_it_leaves_the_base_unchanged(base: Any, images: Any) -> None:
    before = copy.deepcopy(base.state_dict())
    side, features = fork(base), base(images)
    start = copy.deepcopy(side.state_dict())
    optimizer = torch.optim.SGD(side.train().parameters(), lr=0.1)
    side(images, features).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert not any(torch.equal(value, start[name]) for name, value in side.state_dict().items())


def test_a_fork_of_a_map_encodes_as_a_map() -> None:
    base = sample.TinyBase((8, 4, 4)).eval()
    inputs = sample.images([0, 1])
    features = base(inputs)
    for train in MODES[:3]:
        assert torch.equal(fork(base, sample.INPUTS, train=train)(inputs, features), features.encoding)


@pytest.mark.parametrize("train", MODES[:3])
def test_a_fork_of_a_sequence_masks_its_padding(train: str) -> None:
    base = sample.TinyReader().eval()
    inputs = sample.texts([0, 1, 2])
    features = base(inputs)
    side = fork(base, sample.TEXT, after=0, train=train)
    assert torch.equal(side(inputs, features), features.encoding)


def test_what_a_base_does_not_have_is_refused_with_what_it_has(resnet44: Any) -> None:
    expected = {
        "ResNet44 has no tap 4 (--side.after); it has 4, numbered 0 to 3, or -4 to -1": {"after": 4},
        "nothing that --side.train norm could train follows tap 3": {"after": 3, "train": "norm"},
        "block 21 is not after tap 2 of the base; these are 14 to 20": {"blocks": (14, 21)},
        "block 14 is needed (layer3.0)": {"blocks": (15, 16)},
        "--side.blocks names a block twice: 14 14": {"blocks": (14, 14)},
        "--side.rank 65 is more than the 64 inputs or outputs": {"train": "lora", "rank": 65},
        "(--side.blocks; not optional: 14)": {"blocks": (15, 16)},
        "--side.blocks 9 is a number of blocks; tap 2 has 7 after it; not optional: 14": {"blocks": (9,)},
        "no block follows tap 3": {"after": 3, "blocks": (2,)},
    }
    for words, options in expected.items():
        assert words in refusal(resnet44, **options)


def test_a_mode_that_could_add_to_no_layer_is_refused() -> None:
    class Standardised(nn.Conv2d):
        """As timm's ``StdConv2d``, whose weights are others than its parameters."""

    base = resnet()
    for module in base.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Standardised
    assert "no layer is a torch.nn.Conv2d or torch.nn.Linear itself" in refusal(base, after=2, train="lora")


def test_a_base_that_is_no_chain_is_refused_with_bases_that_are() -> None:
    class Other(Base):
        shape, tap_shapes = (4,), ((4,),)

        def forward(self, inputs: Any) -> Features:
            raise AssertionError

    assert "such as resnet44, torchvision or minilm; Other cannot" in refusal(Other())


@pytest.mark.parametrize("train", ["full", "norm"])
def test_a_rank_that_does_not_apply_is_refused(train: str, base: Any) -> None:
    with pytest.raises(OptionError, match=f"rank does not apply with train {train}"):
        fork(base, train=train, rank=4)


@pytest.mark.parametrize("train", ["full", "adapters"])
def test_it_keeps_the_contract_of_a_side(train: str) -> None:
    findings = check_plugin("side", "fork", {"train": train})
    assert [finding for finding in findings if not finding.passed] == []


def test_after_a_text_encoder_s_tap_it_continues_with_its_layers(tiny_bert: Path) -> None:
    cls = load(find(BASE, "transformer"))
    inputs = {"tokens": (9,), "mask": (9,)}
    base = cls(cls.Config(model=str(tiny_bert)), inputs).eval().requires_grad_(False)
    tokens = torch.randint(1, 20, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 9)
    mask[1, 5:] = 0
    batch = {"tokens": tokens, "mask": mask}
    features = base(batch)
    for train in MODES:
        side = fork(base, inputs, train=train)
        assert side.tap_indices == (2,)
        with torch.no_grad():
            torch.testing.assert_close(side(batch, features), features.encoding)
