"""All mergers over shapes and counts, and the formula of each; `test_alpha` has the modes of alpha."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import Merger, seeded
from sidetune_core.config.kinds import MERGER
from sidetune_core.config.registry import find, load
from sidetune_core.testing import check_plugin

NAMES = [
    "alpha",
    "alpha granularity=channel",
    "alpha mode=fixed",
    "alpha mode=linear",
    "alpha mode=cosine",
    "alpha mode=hyperbolic",
    "concat",
    "film",
    "mlp",
    "mlp-hidden",
    "mlp2",
    "product",
    "product form=log-space",
    "resmlp",
    "sum",
]
"""Mergers, with options behind the name."""
SHAPES = [(64,), (5, 8), (8, 4, 4)]

each = pytest.mark.parametrize("name", NAMES)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
counts = pytest.mark.parametrize("count", [2, 3])


def split(name: str) -> tuple[str, dict[str, str]]:
    plugin, *options = name.split()
    return plugin, dict(option.split("=") for option in options)


def make(name: str, shape: tuple[int, ...] = (64,), count: int = 2, **more: Any) -> Any:
    plugin, options = split(name)
    cls = load(find(MERGER, plugin))
    with seeded(0, name, shape, count):
        merger: Merger = cls(cls.Config(**options, **more), shape, count)
    if isinstance(getattr(merger, "seen", None), Tensor):
        merger.seen += 9_000  # in the middle of a schedule, which starts with the base alone
    return merger


def encodings(shape: tuple[int, ...], count: int = 2, batch: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def parameters(merger: nn.Module) -> int:
    return sum(parameter.numel() for parameter in merger.parameters())


def zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


@pytest.mark.parametrize("name", [name for name in NAMES if " " in name])
def test_a_merger_keeps_the_contract_of_its_kind_with_other_options_than_the_defaults(name: str) -> None:
    plugin, options = split(name)
    assert [finding for finding in check_plugin("merger", plugin, options) if not finding.passed] == []


@each
@shapes
@counts
def test_encodings_of_one_shape_become_one_of_that_shape(
    name: str, shape: tuple[int, ...], count: int
) -> None:
    assert make(name, shape, count).double()(encodings(shape, count)).shape == (3, *shape)


@each
@shapes
@counts
def test_gradients_in_encodings_and_parameters_are_those_of_finite_differences(
    name: str, shape: tuple[int, ...], count: int
) -> None:
    merger = make(name, shape, count).double().eval()
    tensors = [
        *encodings(shape, count, batch=2),
        *(parameter.detach().clone() for parameter in merger.parameters()),
    ]
    names = [key for key, _ in merger.named_parameters()]

    def merge(*values: Tensor) -> Tensor:
        return torch.func.functional_call(
            merger, dict(zip(names, values[count:], strict=True)), (values[:count],)
        )

    for tensor in tensors:
        tensor.requires_grad_(True)
    assert torch.autograd.gradcheck(merge, tensors, fast_mode=True)


@each
@shapes
@counts
def test_every_encoding_has_a_gradient(name: str, shape: tuple[int, ...], count: int) -> None:
    inputs = [encoding.requires_grad_(True) for encoding in encodings(shape, count)]
    make(name, shape, count).double().eval()(inputs).square().sum().backward()
    assert all(encoding.grad is not None and encoding.grad.any() for encoding in inputs)


@pytest.mark.parametrize("name", ["alpha", "alpha mode=fixed", "mlp", "mlp-hidden", "mlp2", "resmlp"])
@counts
def test_too_few_encodings_are_an_error(name: str, count: int) -> None:
    with pytest.raises(ValueError, match="shorter|longer"):
        make(name, (64,), count).double()(encodings((64,), count - 1))


@each
def test_the_encodings_are_not_changed(name: str) -> None:
    inputs = encodings((8, 4, 4))
    make(name, (8, 4, 4)).double()(inputs)
    assert all(torch.equal(after, before) for after, before in zip(inputs, encodings((8, 4, 4)), strict=True))


@each
@counts
def test_the_recorded_weights_are_floats(name: str, count: int) -> None:
    weights = make(name, (64,), count).weights()
    assert all(isinstance(value, float) for value in weights.values())
    assert bool(weights) == name.startswith("alpha")


# sum


@shapes
@counts
def test_sum_adds_and_has_no_parameters(shape: tuple[int, ...], count: int) -> None:
    merger = make("sum", shape, count)
    first, second, *rest = encodings(shape, count)
    torch.testing.assert_close(merger([first, second, *rest]), first + second + (rest[0] if rest else 0))
    assert parameters(merger) == 0


# side


@shapes
@counts
def test_the_side_alone_is_alpha_with_no_weight_on_the_base(shape: tuple[int, ...], count: int) -> None:
    inputs = encodings(shape, count)
    merged = make("side", shape, count)(inputs)
    torch.testing.assert_close(merged, make("alpha mode=fixed", shape, count, start=0.0)(inputs))
    if count == 2:
        assert torch.equal(merged, inputs[1])


# mlp, mlp-hidden, mlp2 and resmlp: the original's parameter counts, and the formulas


@pytest.mark.parametrize(
    ("name", "vector", "maps"),
    [("mlp", 8_448, 145), ("mlp-hidden", 8_448, 145), ("mlp2", 16_896, 290), ("resmlp", 16_896, 290)],
)
def test_adapters_have_the_original_number_of_parameters(name: str, vector: int, maps: int) -> None:
    assert [parameters(make(name, shape)) for shape in ((64,), (8, 16, 16))] == [vector, maps]


@pytest.mark.parametrize(("name", "networks"), [("mlp", 1), ("mlp-hidden", 1), ("mlp2", 2), ("resmlp", 2)])
def test_each_further_encoding_has_its_own_adapter(name: str, networks: int) -> None:
    assert parameters(make(name, (64,), 3)) == (networks + 1) * 8_448


@shapes
def test_mlp_adds_the_side_unchanged(shape: tuple[int, ...]) -> None:
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
    inputs = encodings((5, 8))
    turned = [encoding.flip(1) for encoding in inputs]
    torch.testing.assert_close(merger(turned), merger(inputs).flip(1))


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


@pytest.mark.parametrize("name", ["mlp", "mlp-hidden", "mlp2", "resmlp"])
def test_in_eval_mode_the_adapter_changes_no_statistics(name: str) -> None:
    merger = make(name, (64,)).double().eval()
    before = {key: value.clone() for key, value in merger.state_dict().items()}
    merger(encodings((64,)))
    assert all(torch.equal(value, before[key]) for key, value in merger.state_dict().items())


@shapes
@counts
def test_resmlp_with_a_zero_network_on_the_side_is_mlp(shape: tuple[int, ...], count: int) -> None:
    merger, mlp = make("resmlp", shape, count).double().eval(), make("mlp", shape, count).double().eval()
    mlp.adapters.load_state_dict(merger.adapters[:-1].state_dict())
    zero(merger.adapters[-1])
    inputs = encodings(shape, count)
    torch.testing.assert_close(merger(inputs), mlp(inputs))


@shapes
@counts
def test_resmlp_is_mlp2_and_the_side(shape: tuple[int, ...], count: int) -> None:
    merger, mlp2 = make("resmlp", shape, count).double().eval(), make("mlp2", shape, count).double().eval()
    mlp2.load_state_dict(merger.state_dict())
    inputs = encodings(shape, count)
    torch.testing.assert_close(merger(inputs), mlp2(inputs) + inputs[-1])


@shapes
@counts
def test_mlp_hidden_is_the_positive_part_of_mlp(shape: tuple[int, ...], count: int) -> None:
    merger, mlp = make("mlp-hidden", shape, count).double().eval(), make("mlp", shape, count).double().eval()
    mlp.load_state_dict(merger.state_dict())
    inputs = encodings(shape, count)
    assert torch.equal(merger(inputs), mlp(inputs).clamp(min=0))


# film: B * m + b, m = p(h) + S, b = q(h) + S, h = ReLU(GN(r(S)))


def test_film_has_the_original_number_of_parameters() -> None:
    assert parameters(make("film", (8, 16, 16))) == 1_680


@pytest.mark.parametrize("count", [2, 3, 9])
def test_film_does_not_grow_with_the_number_of_encodings(count: int) -> None:
    assert parameters(make("film", (8, 16, 16), count)) == 1_680


@shapes
def test_the_hidden_layer_of_film_has_the_requested_width(shape: tuple[int, ...]) -> None:
    channels = shape[0] if len(shape) == 3 else shape[-1]
    assert parameters(make("film", shape, hidden=10)) == 10 * channels + 2 * 10 + 2 * (
        10 * channels + channels
    )


@shapes
def test_film_without_its_projections_is_the_base_times_the_side_and_the_side(shape: tuple[int, ...]) -> None:
    merger = make("film", shape).double()
    zero(merger.scale)
    zero(merger.shift)
    base, side = encodings(shape)
    torch.testing.assert_close(merger([base, side]), base * side + side)


@shapes
def test_film_of_three_is_film_with_the_mean_of_the_sides(shape: tuple[int, ...]) -> None:
    base, first, second = encodings(shape, 3)
    merger, of_two = make("film", shape, 3).double(), make("film", shape).double()
    of_two.load_state_dict(merger.state_dict())
    torch.testing.assert_close(merger([base, first, second]), of_two([base, (first + second) / 2]))


@shapes
def test_film_is_affine_in_the_base(shape: tuple[int, ...]) -> None:
    merger = make("film", shape).double()
    base, side = encodings(shape)
    other = base.flip(0)
    torch.testing.assert_close(
        merger([0.3 * base + 0.7 * other, side]), 0.3 * merger([base, side]) + 0.7 * merger([other, side])
    )


def test_film_of_a_vector_follows_its_formula() -> None:
    merger = make("film", (6,), hidden=8).double()
    first, norm, _ = merger.hidden
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    base, side = encodings((6,))
    x = (side @ first.weight.T).unflatten(1, (2, 4))  # (B, group, hidden / 2)
    x = ((x - x.mean(2, keepdim=True)) / (x.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()).flatten(1)
    h = (x * norm.weight + norm.bias).clamp(min=0)
    scale = h @ merger.scale.weight.T + merger.scale.bias + side
    shift = h @ merger.shift.weight.T + merger.shift.bias + side
    torch.testing.assert_close(merger([base, side]), base * scale + shift)


def test_film_treats_every_position_of_a_sequence_like_a_vector() -> None:
    merger, of_vectors = make("film", (5, 8)).double(), make("film", (8,)).double()
    of_vectors.load_state_dict(merger.state_dict())
    inputs = encodings((5, 8))
    torch.testing.assert_close(merger(inputs)[:, 3], of_vectors([encoding[:, 3] for encoding in inputs]))


def test_film_of_a_map_of_one_pixel_is_that_of_a_vector() -> None:
    merger, of_vectors = make("film", (8, 1, 1)).double(), make("film", (8,)).double()
    state = merger.state_dict()
    of_vectors.load_state_dict(
        {key: value[:, :, 0, 0] if value.ndim == 4 else value for key, value in state.items()}
    )
    inputs = encodings((8, 1, 1))
    torch.testing.assert_close(
        merger(inputs).flatten(1), of_vectors([encoding.flatten(1) for encoding in inputs])
    )


# product


@shapes
def test_a_product_with_ones_is_the_other_encoding(shape: tuple[int, ...]) -> None:
    (base,) = encodings(shape, 1)
    assert torch.equal(make("product", shape)([base, torch.ones_like(base)]), base)


@shapes
def test_a_product_of_three_multiplies_their_values(shape: tuple[int, ...]) -> None:
    first, second, third = encodings(shape, 3)
    torch.testing.assert_close(make("product", shape, 3)([first, second, third]), first * second * third)


def test_a_product_is_zero_where_one_encoding_is_and_the_gradient_of_the_other_is_too() -> None:
    base, side = encodings((64,))
    base[:, 5] = 0
    side.requires_grad_(True)
    merged = make("product")([base, side])
    merged.sum().backward()
    assert side.grad is not None
    assert not merged[:, 5].any()
    assert torch.equal(side.grad, base)


@shapes
@counts
def test_in_log_space_the_softmax_is_the_normalised_product_of_distributions(
    shape: tuple[int, ...], count: int
) -> None:
    axis = 1 if len(shape) == 3 else -1
    inputs = encodings(shape, count)
    distributions = torch.stack([x.exp() / x.exp().sum(axis, keepdim=True) for x in inputs]).prod(0)
    expected = distributions / distributions.sum(axis, keepdim=True)
    torch.testing.assert_close(make("product form=log-space", shape, count)(inputs).softmax(axis), expected)


@shapes
def test_in_log_space_a_uniform_expert_subtracts_the_logarithm_of_the_number_of_channels(
    shape: tuple[int, ...],
) -> None:
    axis = 1 if len(shape) == 3 else -1
    (base,) = encodings(shape, 1)
    expected = base.log_softmax(axis) - torch.tensor(float(base.shape[axis]), dtype=torch.float64).log()
    torch.testing.assert_close(
        make("product form=log-space", shape)([base, torch.full_like(base, 3.0)]), expected
    )


@pytest.mark.parametrize("name", ["product", "product form=log-space"])
def test_a_product_has_no_state(name: str) -> None:
    assert not make(name, (64,), 3).state_dict()


# concat


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ((64,), 2, 128 * 64 + 64),
        ((5, 8), 3, 24 * 8 + 8),
        ((8, 16, 16), 2, 1_744),
        ((8, 16, 16), 3, 24 * 8 * 9 + 8 + 8 * 8 * 9 + 8),
    ],
)
def test_concat_has_the_parameters_of_its_projection(
    shape: tuple[int, ...], count: int, expected: int
) -> None:
    assert parameters(make("concat", shape, count)) == expected


@pytest.mark.parametrize("shape", [(64,), (5, 8)], ids=str)
def test_concat_of_vectors_can_be_any_weighted_sum(shape: tuple[int, ...]) -> None:
    merger = make("concat", shape).double()
    zero(merger)
    identity = torch.eye(shape[-1], dtype=torch.float64)
    merger.projection.weight.data = torch.cat([0.2 * identity, -3 * identity], 1)
    base, side = encodings(shape)
    torch.testing.assert_close(merger([base, side]), 0.2 * base - 3 * side)


@pytest.mark.parametrize("chosen", [0, 1])
def test_concat_of_maps_with_identity_convolutions_is_the_positive_part_of_one_encoding(chosen: int) -> None:
    merger = make("concat", (8, 4, 4)).double()
    zero(merger)
    first, _, second, _ = merger.projection
    for channel in range(8):
        first.weight.data[channel, 8 * chosen + channel, 1, 1] = 1
        second.weight.data[channel, channel, 1, 1] = 1
    inputs = encodings((8, 4, 4))
    torch.testing.assert_close(merger(inputs), inputs[chosen].clamp(min=0))
