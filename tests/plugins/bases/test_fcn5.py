"""Base FCN5: its size, its shapes, and that it is the side of that name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sidetune_core.api import FitError, WeightsError
from sidetune_core.config import registry
from sidetune_core.config.kinds import BASE, SIDE
from sidetune_core.config.options import structure

FCN5: Any = registry.load(registry.find(BASE, "fcn5"))
IMAGE = {"image": (3, 64, 64)}


def make(**options: Any) -> Any:
    return FCN5(structure(FCN5.Config, options, "base 'fcn5'"), IMAGE).eval()


def test_it_has_the_declared_shapes_and_size() -> None:
    base = make()
    features = base({"image": torch.rand(2, 3, 64, 64)})
    assert features.encoding.shape == (2, *base.shape) == (2, 8, 4, 4)
    assert (
        [tuple(tap.shape[1:]) for tap in features.taps]
        == list(base.tap_shapes)
        == [(16, 16, 16), (64, 8, 8), (64, 4, 4), (16, 4, 4)]
    )
    assert f"{sum(parameter.numel() for parameter in base.parameters()):,} parameters" in FCN5.__doc__


def test_at_the_width_of_the_side_it_computes_what_the_side_computes() -> None:
    base, cls = make(width=64), registry.load(registry.find(SIDE, "fcn5"))
    side = cls(cls.Config(), IMAGE, base).eval()
    base.load_state_dict(side.state_dict())
    inputs = {"image": torch.rand(2, 3, 64, 64)}
    features = base(inputs)
    torch.testing.assert_close(features.encoding, side(inputs, features))


def test_weights_come_with_it_for_one_width() -> None:
    assert not torch.equal(make(weights="packaged").conv1[0].weight, make().conv1[0].weight)
    with pytest.raises(WeightsError):
        make(weights="packaged", width=8)


def test_odd_widths_and_small_images_are_refused() -> None:
    with pytest.raises(FitError, match="--base.width must be even, not 15"):
        make(width=15)
    with pytest.raises(FitError, match="at least 16"):
        FCN5(FCN5.Config(), {"image": (3, 12, 12)})
