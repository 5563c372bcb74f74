"""The normalisation before the heads, and the heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.interfaces.heads import ClassHead, Heads, normalise
from sidetune_core.supervised.classification import ClassTask, Examples


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_vector_of_64_is_standardised_in_eight_groups_of_eight_neighbours() -> None:
    x = randn(5, 64)
    torch.testing.assert_close(normalise(x), nn.GroupNorm(8, 64, affine=False)(x))
    groups = normalise(x).unflatten(1, (8, 8))
    torch.testing.assert_close(groups.mean(2), torch.zeros(5, 8, dtype=torch.float64))
    torch.testing.assert_close(
        groups.var(2, unbiased=False), torch.ones(5, 8, dtype=torch.float64), rtol=0, atol=1e-3
    )


def test_a_map_of_eight_channels_is_standardised_channel_by_channel() -> None:
    x = randn(3, 8, 16, 16)
    torch.testing.assert_close(normalise(x), nn.GroupNorm(8, 8, affine=False)(x))


def test_a_sequence_is_standardised_at_every_position() -> None:
    x = randn(3, 7, 64)
    expected = torch.stack([normalise(x[:, k]) for k in range(7)], 1)
    torch.testing.assert_close(normalise(x), expected)


@pytest.mark.parametrize(
    ("channels", "groups"), [(8, 1), (16, 2), (24, 2), (32, 4), (60, 4), (64, 8), (768, 8), (7, 1), (3, 1)]
)
def test_a_group_has_at_least_eight_values_if_possible(channels: int, groups: int) -> None:
    x = randn(4, channels)
    torch.testing.assert_close(normalise(x), nn.GroupNorm(groups, channels, affine=False)(x))


@pytest.mark.parametrize("shape", [(64,), (8,), (5, 8), (8, 16, 16), (8, 1, 1), (3,)])
def test_different_examples_stay_different(shape: tuple[int, ...]) -> None:
    out = normalise(randn(2, *shape))
    assert (out[0] - out[1]).abs().max() > 0.1


@pytest.mark.parametrize("shape", [(64,), (5, 64), (8, 4, 4)])
def test_the_scale_and_offset_of_an_encoding_have_no_effect(shape: tuple[int, ...]) -> None:
    x = randn(4, *shape)
    torch.testing.assert_close(normalise(1000 * x + 3), normalise(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(64,), (5, 64), (8, 4, 4)])
def test_an_example_does_not_depend_on_its_batch(shape: tuple[int, ...]) -> None:
    x = randn(4, *shape)
    torch.testing.assert_close(normalise(x)[1:2], normalise(x[1:2]))


def test_a_class_head_is_linear() -> None:
    head = ClassHead((64,), 10).double()
    x = randn(3, 64)
    torch.testing.assert_close(head(x), x @ head.linear.weight.T + head.linear.bias)


def test_a_class_head_of_64_and_ten_classes_has_650_parameters() -> None:
    assert sum(parameter.numel() for parameter in ClassHead((64,), 10).parameters()) == 650


@pytest.mark.parametrize(("shape", "positions"), [((5, 8), (1,)), ((8, 4, 4), (2, 3))])
def test_a_class_head_averages_positions_first(shape: tuple[int, ...], positions: tuple[int, ...]) -> None:
    head = ClassHead(shape, 10).double()
    x = randn(3, *shape)
    torch.testing.assert_close(head(x), head.linear(x.mean(positions)))


def task(id: str) -> ClassTask:
    examples = Examples(
        {"train": torch.zeros(4, 1), "test": torch.zeros(4, 1)},
        {"train": torch.arange(4), "test": torch.arange(4)},
    )
    return ClassTask(id, id, examples, [0, 1, 2, 3], transform=torch.Tensor.float)


@pytest.mark.parametrize("norm", [True, False])
def test_heads_normalise_by_option(norm: bool) -> None:
    heads = Heads((64,), norm)
    heads.add_task(task("t0"))
    x = randn(3, 64).float()
    torch.testing.assert_close(heads.predict(x, "t0"), heads["t0"](normalise(x) if norm else x))


def test_each_task_has_its_own_head_for_the_shape_of_the_encodings() -> None:
    heads: Any = Heads((8, 4, 4))
    heads.add_task(task("t0"))
    assert heads.add_task(task("t1")) is heads["t1"]
    assert heads["t1"] is not heads["t0"]
    assert heads["t1"].linear.weight.shape == (4, 8)
