"""All mergers over shapes and counts, and each one's own formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, seeded
from sidetune_core.kinds import MERGER
from sidetune_core.registry import find, load

NAMES = ["alpha", "mlp", "mlp2", "sum"]
SHAPES = [(64,), (5, 8), (8, 4, 4)]

each = pytest.mark.parametrize("name", NAMES)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
counts = pytest.mark.parametrize("count", [2, 3])


def make(name: str, shape: tuple[int, ...] = (64,), count: int = 2) -> Any:
    cls = load(find(MERGER, name))
    with seeded(0, name, shape, count):
        merger: Merger = cls(cls.Config(), shape, count)
    return merger


def encodings(shape: tuple[int, ...], count: int = 2, batch: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def parameters(merger: nn.Module) -> int:
    return sum(parameter.numel() for parameter in merger.parameters())


@each
@shapes
@counts
def test_encodings_of_one_shape_become_one_of_that_shape(name: str, shape: tuple[int, ...], count: int) -> None:
    assert make(name, shape, count).double()(encodings(shape, count)).shape == (3, *shape)


@each
@shapes
@counts
def test_gradients_in_encodings_and_parameters_are_those_of_finite_differences(name: str, shape: tuple[int, ...], count: int) -> None:
    merger = make(name, shape, count).double().eval()
    tensors = [*encodings(shape, count, batch=2), *(parameter.detach().clone() for parameter in merger.parameters())]
    names = [key for key, _ in merger.named_parameters()]

    def merge(*values: Tensor) -> Tensor:
        return torch.func.functional_call(merger, dict(zip(names, values[count:], strict=True)), (values[:count],))

    for tensor in tensors:
        tensor.requires_grad_(True)
    assert torch.autograd.gradcheck(merge, tensors, fast_mode=True)


@each
@shapes
@counts
def test_every_encoding_counts(name: str, shape: tuple[int, ...], count: int) -> None:
    given = [one.requires_grad_(True) for one in encodings(shape, count)]
    make(name, shape, count).double().eval()(given).square().sum().backward()
    assert all(one.grad is not None and one.grad.any() for one in given)


@pytest.mark.parametrize("name", ["alpha", "mlp", "mlp2"])
@counts
def test_too_few_encodings_are_an_error(name: str, count: int) -> None:
    with pytest.raises(ValueError, match="shorter|longer"):
        make(name, (64,), count).double()(encodings((64,), count - 1))


@each
def test_the_encodings_are_not_changed(name: str) -> None:
    given = encodings((8, 4, 4))
    make(name, (8, 4, 4)).double()(given)
    assert all(torch.equal(one, same) for one, same in zip(given, encodings((8, 4, 4)), strict=True))


@each
@counts
def test_what_is_recorded_of_the_mixture_are_numbers(name: str, count: int) -> None:
    weights = make(name, (64,), count).weights()
    assert all(isinstance(value, float) for value in weights.values())
    assert bool(weights) == (name == "alpha")


# alpha: w B + (1 - w) S, w = sigmoid(a)


def test_alpha_has_one_parameter_for_two_encodings_and_one_each_for_more() -> None:
    assert [parameters(make("alpha", (64,), count)) for count in (2, 3, 5)] == [1, 3, 5]


@shapes
def test_alpha_begins_with_the_mean(shape: tuple[int, ...]) -> None:
    base, side = encodings(shape)
    torch.testing.assert_close(make("alpha", shape).double()([base, side]), (base + side) / 2)


def test_alpha_begins_with_half_the_weight_on_the_base() -> None:
    assert make("alpha").weights() == {"base": 0.5}


def test_alpha_of_three_begins_with_their_mean() -> None:
    given = encodings((64,), 3)
    merger = make("alpha", (64,), 3).double()
    torch.testing.assert_close(merger(given), torch.stack(given).mean(0))
    assert merger.weights()["base"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("a", "chosen"), [(100.0, 0), (-100.0, 1)])
def test_alpha_at_its_limits_is_the_base_alone_or_the_side_alone(a: float, chosen: int) -> None:
    merger = make("alpha").double()
    nn.init.constant_(merger.alpha, a)
    given = encodings((64,))
    torch.testing.assert_close(merger(given), given[chosen], rtol=0, atol=1e-12)
    assert merger.weights()["base"] == pytest.approx(1.0 - chosen, abs=1e-12)


def test_alpha_at_the_logarithm_of_four_puts_four_fifths_on_the_base() -> None:
    merger = make("alpha").double()
    nn.init.constant_(merger.alpha, math.log(4))
    base, side = encodings((64,))
    torch.testing.assert_close(merger([base, side]), 0.8 * base + 0.2 * side)


def test_alpha_learns_by_the_derivative_of_the_sigmoid() -> None:
    merger = make("alpha").double()
    base, side = encodings((64,))
    merger([base, side]).sum().backward()
    torch.testing.assert_close(merger.alpha.grad, 0.25 * (base - side).sum())


def test_alpha_of_three_follows_a_softmax() -> None:
    merger = make("alpha", (64,), 3).double()
    merger.alpha.data = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64).log().clamp(min=-100)
    first, second, third = encodings((64,), 3)
    torch.testing.assert_close(merger([first, second, third]), first / 3 + 2 * second / 3)


# sum


@shapes
@counts
def test_sum_adds_and_has_no_parameters(shape: tuple[int, ...], count: int) -> None:
    merger = make("sum", shape, count)
    first, second, *rest = encodings(shape, count)
    torch.testing.assert_close(merger([first, second, *rest]), first + second + (rest[0] if rest else 0))
    assert parameters(merger) == 0


# mlp and mlp2: the published parameter counts, and the formulas


@pytest.mark.parametrize(
    ("name", "shape", "count"), [("mlp", (64,), 8_448), ("mlp", (8, 16, 16), 145), ("mlp2", (64,), 16_896), ("mlp2", (8, 16, 16), 290)]
)
def test_adapters_have_the_published_number_of_parameters(name: str, shape: tuple[int, ...], count: int) -> None:
    assert parameters(make(name, shape)) == count


@pytest.mark.parametrize(("name", "networks"), [("mlp", 1), ("mlp2", 2)])
def test_a_further_encoding_has_an_adapter_of_its_own(name: str, networks: int) -> None:
    assert parameters(make(name, (64,), 3)) == (networks + 1) * 8_448


@shapes
def test_mlp_leaves_the_side_as_it_is(shape: tuple[int, ...]) -> None:
    merger = make("mlp", shape).double().eval()
    base, side = encodings(shape)
    zeros = torch.zeros_like(side)
    torch.testing.assert_close(merger([base, side]) - merger([base, zeros]), side)


@shapes
def test_mlp2_is_the_sum_of_a_function_of_each(shape: tuple[int, ...]) -> None:
    merger = make("mlp2", shape).double().eval()
    base, side = encodings(shape)
    zeros = torch.zeros_like(side)
    expected = merger([base, zeros]) + merger([zeros, side]) - merger([zeros, zeros])
    torch.testing.assert_close(merger([base, side]), expected)


def test_the_adapter_of_a_vector_is_linear_batch_norm_relu_linear() -> None:
    merger = make("mlp", (64,)).double().train()
    adapter = merger.adapters[0]
    base, side = encodings((64,), batch=9)
    x = base @ adapter.first.weight.T + adapter.first.bias
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    expected = x.clamp(min=0) @ adapter.second.weight.T + adapter.second.bias + side
    torch.testing.assert_close(merger([base, side]), expected)


def test_the_adapter_of_a_sequence_treats_every_position_alike() -> None:
    merger = make("mlp2", (5, 8)).double().eval()
    given = encodings((5, 8))
    turned = [one.flip(1) for one in given]
    torch.testing.assert_close(merger(turned), merger(given).flip(1))


def test_the_adapter_of_a_map_is_scale_convolution_group_norm_relu_convolution() -> None:
    merger = make("mlp", (8, 4, 4)).double()
    adapter = merger.adapters[0]
    base, side = encodings((8, 4, 4))
    x = torch.einsum("oc,bchw->bohw", adapter.first.weight[:, :, 0, 0], 0.9 * base)
    halves = x.unflatten(1, (2, 4))  # (B, group, C / 2, H, W)
    centred = halves - halves.mean((2, 3, 4), keepdim=True)
    x = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()).flatten(1, 2).clamp(min=0)
    expected = torch.einsum("oc,bchw->bohw", adapter.second.weight[:, :, 0, 0], x) + side
    torch.testing.assert_close(merger([base, side]), expected, rtol=1e-6, atol=1e-6)


def test_the_adapter_of_a_map_takes_an_odd_number_of_channels() -> None:
    assert make("mlp2", (3, 4, 4)).double()(encodings((3, 4, 4))).shape == (3, 3, 4, 4)


@pytest.mark.parametrize("name", ["mlp", "mlp2"])
def test_in_eval_mode_the_adapter_moves_no_statistics(name: str) -> None:
    merger = make(name, (64,)).double().eval()
    before = {key: value.clone() for key, value in merger.state_dict().items()}
    merger(encodings((64,)))
    assert all(torch.equal(value, before[key]) for key, value in merger.state_dict().items())
