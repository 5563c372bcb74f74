"""Base and side 'combined': which network they are, and that the core remembers a frozen base's outputs once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sidetune_core.api import Inputs, InputShapes
from sidetune_core.config import registry
from sidetune_core.config.kinds import BASE, SIDE
from sidetune_core.feature_cache.cache import GIB, FeatureCache

SEES: InputShapes = {"image": (3, 12, 12), "speed": (2,)}
FEELS: InputShapes = {"speed": (2,), "touch": (5,)}


def make(kind: Any, name: str, *shapes: Any) -> Any:
    cls = registry.load(registry.find(kind, name))
    torch.manual_seed(0)
    return cls(cls.Config(), *shapes)


def blank(shapes: InputShapes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(4, *shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize(("shapes", "same"), [(SEES, "conv"), (FEELS, "mlp")])
def test_it_is_the_network_that_suits_the_inputs(shapes: InputShapes, same: str) -> None:
    base, expected = make(BASE, "combined", shapes), make(BASE, same, shapes)
    inputs = blank(shapes)
    torch.testing.assert_close(base(inputs), expected(inputs), rtol=0, atol=0)
    assert (base.shape, base.tap_shapes) == (expected.shape, expected.tap_shapes)
    side, beside = make(SIDE, "combined", shapes, base), make(SIDE, same, shapes, base)
    torch.testing.assert_close(side(inputs, base(inputs)), beside(inputs, base(inputs)), rtol=0, atol=0)


def test_its_frozen_outputs_are_held_once() -> None:
    base = make(BASE, "combined", FEELS).requires_grad_(False).eval()
    store = FeatureCache(GIB, keep_taps=False, info=pytest.fail)
    store.attach(base, "fp32")
    for _ in range(2):
        base(Inputs(blank(FEELS), torch.arange(4)))
    held = store.used
    alone = make(BASE, "mlp", FEELS).requires_grad_(False).eval()
    other = FeatureCache(GIB, keep_taps=False, info=pytest.fail)
    other.attach(alone, "fp32")
    alone(Inputs(blank(FEELS), torch.arange(4)))
    assert held == other.used > 0
