"""The weighted sum in every mode: limits, closed forms, and the count of examples that drives a schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import OptionError
from sidetune_core.config.kinds import MERGER
from sidetune_core.config.options import structure
from sidetune_core.config.registry import find, load

SHAPES = [(64,), (5, 8), (8, 4, 4)]
SCHEDULES = ["linear", "cosine", "hyperbolic"]

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
schedules = pytest.mark.parametrize("mode", SCHEDULES)


def make(shape: tuple[int, ...] = (64,), count: int = 2, **options: Any) -> Any:
    cls = load(find(MERGER, "alpha"))
    return cls(structure(cls.Config, options, "merger 'alpha'"), shape, count).double()


def encodings(shape: tuple[int, ...] = (64,), count: int = 2, batch: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def train(merger: Any, examples: int) -> None:
    merger.train()(encodings(batch=examples))


def base_weight(merger: Any) -> float:
    weight: float = merger.weights()["base"]
    return weight


# learned: w B + (1 - w) S, w = sigmoid(a)


@pytest.mark.parametrize(("count", "shape"), [(2, ()), (3, (3,)), (5, (5,))])
def test_a_learned_blend_has_one_scalar_for_two_encodings_and_one_each_for_more(
    count: int, shape: tuple[int, ...]
) -> None:
    assert {key: tuple(value.shape) for key, value in make((64,), count).state_dict().items()} == {
        "alpha": shape
    }


@shapes
def test_alpha_begins_with_the_mean(shape: tuple[int, ...]) -> None:
    base, side = encodings(shape)
    torch.testing.assert_close(make(shape)([base, side]), (base + side) / 2)


def test_alpha_is_zero_at_first_and_the_base_has_half_the_weight() -> None:
    merger = make()
    assert merger.alpha.item() == 0
    assert merger.weights() == {"base": 0.5}


def test_alpha_of_three_begins_with_their_mean() -> None:
    inputs = encodings(count=3)
    merger = make((64,), 3)
    torch.testing.assert_close(merger(inputs), torch.stack(inputs).mean(0))
    assert base_weight(merger) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("a", "chosen"), [(100.0, 0), (-100.0, 1)])
def test_alpha_at_its_limits_is_the_base_alone_or_the_side_alone(a: float, chosen: int) -> None:
    merger = make()
    nn.init.constant_(merger.alpha, a)
    inputs = encodings()
    torch.testing.assert_close(merger(inputs), inputs[chosen], rtol=0, atol=1e-12)
    assert base_weight(merger) == pytest.approx(1.0 - chosen, abs=1e-12)


def test_alpha_at_the_logarithm_of_four_puts_four_fifths_on_the_base() -> None:
    merger = make()
    nn.init.constant_(merger.alpha, math.log(4))
    base, side = encodings()
    torch.testing.assert_close(merger([base, side]), 0.8 * base + 0.2 * side)


def test_alpha_learns_by_the_derivative_of_the_sigmoid() -> None:
    merger = make()
    base, side = encodings()
    merger([base, side]).sum().backward()
    torch.testing.assert_close(merger.alpha.grad, 0.25 * (base - side).sum())


def test_alpha_of_three_follows_a_softmax() -> None:
    merger = make((64,), 3)
    merger.alpha.data = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64).log().clamp(min=-100)
    first, second, third = encodings(count=3)
    torch.testing.assert_close(merger([first, second, third]), first / 3 + 2 * second / 3)


@pytest.mark.parametrize("granularity", ["scalar", "channel"])
@pytest.mark.parametrize("start", [0.01, 0.5, 0.8])
def test_a_learned_blend_starts_at_the_requested_weight(granularity: str, start: float) -> None:
    base, side = encodings()
    torch.testing.assert_close(
        make(granularity=granularity, start=start)([base, side]),
        start * base + (1 - start) * side,
        rtol=1e-5,
        atol=1e-5,
    )


def test_with_more_than_two_encodings_start_is_the_weight_of_the_base_against_each_other() -> None:
    assert base_weight(make((64,), 4, start=0.75)) == pytest.approx(3 / (3 + 1 + 1 + 1))


@shapes
@pytest.mark.parametrize(("count", "rows"), [(2, ()), (3, (3,))])
def test_a_blend_per_channel_has_a_weight_for_each_channel(
    shape: tuple[int, ...], count: int, rows: tuple[int, ...]
) -> None:
    channels = shape[0] if len(shape) == 3 else shape[-1]
    assert tuple(make(shape, count, granularity="channel").alpha.shape) == (*rows, channels)


@shapes
def test_a_blend_per_channel_can_take_one_channel_from_the_base_and_the_others_from_the_side(
    shape: tuple[int, ...],
) -> None:
    merger = make(shape, granularity="channel")
    nn.init.constant_(merger.alpha, -100.0)
    merger.alpha.data[1] = 100.0
    base, side = encodings(shape)
    expected = side.clone()
    index = (slice(None), 1) if len(shape) == 3 else (..., 1)
    expected[index] = base[index]
    torch.testing.assert_close(merger([base, side]), expected, rtol=0, atol=1e-12)


@shapes
def test_a_blend_of_three_per_channel_chooses_in_each_channel(shape: tuple[int, ...]) -> None:
    merger = make(shape, 3, granularity="channel")
    nn.init.constant_(merger.alpha, -100.0)
    merger.alpha.data[2] = 0.0
    inputs = encodings(shape, 3)
    torch.testing.assert_close(merger(inputs), inputs[2], rtol=0, atol=1e-12)


def test_a_blend_per_channel_records_the_mean_weight_of_the_base() -> None:
    merger = make((4,), granularity="channel")
    merger.alpha.data = torch.tensor([100.0, 100.0, 100.0, -100.0], dtype=torch.float64)
    assert base_weight(merger) == pytest.approx(0.75)


# fixed


@pytest.mark.parametrize(("start", "chosen"), [(1.0, 0), (0.0, 1)])
def test_a_fixed_blend_at_its_limits_is_the_base_alone_or_the_side_alone(start: float, chosen: int) -> None:
    inputs = encodings()
    assert torch.equal(make(mode="fixed", start=start)(inputs), inputs[chosen])


def test_a_fixed_blend_is_a_weighted_mean_and_has_no_state() -> None:
    merger = make(mode="fixed", start=0.3)
    base, side = encodings()
    torch.testing.assert_close(merger([base, side]), 0.3 * base + 0.7 * side)
    assert not merger.state_dict()


@pytest.mark.parametrize("mode", ["fixed", *SCHEDULES])
def test_the_remaining_weight_is_divided_equally_among_the_sides(mode: str) -> None:
    merger = make((64,), 4, mode=mode, **({"start": 0.4} if mode == "fixed" else {"horizon": 10}))
    merger.train()(encodings(count=4, batch=5))
    base, *sides = encodings(count=4)
    w = base_weight(merger)
    assert 0 < w < 1
    torch.testing.assert_close(
        merger.eval()([base, *sides]), w * base + (1 - w) * torch.stack(sides).mean(0), rtol=1e-5, atol=1e-6
    )


# linear, cosine, hyperbolic


@schedules
@shapes
def test_a_schedule_begins_with_the_base_alone(mode: str, shape: tuple[int, ...]) -> None:
    inputs = encodings(shape)
    assert torch.equal(make(shape, mode=mode)(inputs), inputs[0])


@pytest.mark.parametrize(
    ("mode", "seen", "weight"),
    [
        ("linear", 0, 1.0),
        ("linear", 25, 0.8),
        ("linear", 50, 0.6),
        ("linear", 100, 0.2),
        ("linear", 1000, 0.2),
        ("cosine", 0, 1.0),
        ("cosine", 25, 0.6 + 0.4 / math.sqrt(2)),
        ("cosine", 50, 0.6),
        ("cosine", 100, 0.2),
        ("cosine", 1000, 0.2),
    ],
)
def test_linear_and_cosine_decrease_from_one_to_end_and_stay_there(
    mode: str, seen: int, weight: float
) -> None:
    merger = make(mode=mode, horizon=100, end=0.2)
    train(merger, seen)
    assert base_weight(merger) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("seen", "weight"), [(0, 1.0), (1, 100 / 101), (100, 0.5), (300, 0.25), (9900, 0.01)]
)
def test_hyperbolic_is_k_over_k_plus_n(seen: int, weight: float) -> None:
    merger = make(mode="hyperbolic", horizon=100)
    train(merger, seen)
    assert base_weight(merger) == pytest.approx(weight)


@schedules
def test_a_batch_is_blended_with_the_count_from_before_it(mode: str) -> None:
    merger = make(mode=mode, horizon=4).train()
    inputs = encodings(batch=4)
    assert torch.equal(merger(inputs), inputs[0])
    torch.testing.assert_close(merger(inputs), (inputs[0] + inputs[1]) / 2)


@schedules
def test_examples_are_counted_one_by_one_whatever_the_batches(mode: str) -> None:
    merger, other = make(mode=mode, horizon=50), make(mode=mode, horizon=50)
    for batch in (1, 7, 12):
        train(merger, batch)
    train(other, 20)
    assert merger.seen.item() == 20
    assert merger.weights() == other.weights()


@schedules
def test_evaluation_counts_no_examples(mode: str) -> None:
    merger = make(mode=mode)
    train(merger, 3)
    merger.eval()(encodings())
    assert merger.seen.item() == 3


@schedules
def test_a_schedule_continues_after_a_round_trip_through_the_state_dict(mode: str) -> None:
    first, second = make(mode=mode, horizon=40), make(mode=mode, horizon=40)
    train(first, 10)
    second.load_state_dict(first.state_dict())
    train(first, 10)
    train(second, 10)
    assert second.seen.item() == 20
    assert torch.equal(first(encodings()), second(encodings()))


@schedules
def test_a_schedule_has_a_buffer_and_no_parameters(mode: str) -> None:
    merger = make(mode=mode)
    assert list(merger.state_dict()) == ["seen"]
    assert not list(merger.parameters())


# options


@pytest.mark.parametrize(
    ("options", "name", "modes"),
    [
        ({"end": 0.1}, "end", "linear or cosine"),
        ({"horizon": 5}, "horizon", "linear or cosine or hyperbolic"),
        ({"mode": "fixed", "granularity": "channel"}, "granularity", "learned"),
        ({"mode": "fixed", "horizon": 5}, "horizon", "linear or cosine or hyperbolic"),
        ({"mode": "linear", "start": 0.9}, "start", "learned or fixed"),
        ({"mode": "cosine", "granularity": "channel"}, "granularity", "learned"),
        ({"mode": "hyperbolic", "end": 0.1}, "end", "linear or cosine"),
    ],
)
def test_an_option_that_does_not_apply_in_the_mode_is_refused(
    options: dict[str, Any], name: str, modes: str
) -> None:
    mode = options.get("mode", "learned")
    with pytest.raises(
        OptionError, match=f"{name} does not apply in mode {mode}; leave it out, or choose mode {modes}$"
    ):
        make(**options)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_learned_weight_without_gradient_is_refused(start: float) -> None:
    with pytest.raises(
        OptionError, match=f"cannot start at {start:g}; choose a value between 0 and 1, or mode fixed"
    ):
        make(start=start)


@pytest.mark.parametrize(
    "options",
    [
        {"start": 1.1},
        {"start": -0.1},
        {"mode": "linear", "end": 2.0},
        {"mode": "linear", "horizon": 0},
        {"mode": "none"},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="must be"):
        make(**options)
