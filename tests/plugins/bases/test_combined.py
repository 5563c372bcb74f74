"""Base and side 'combined': which network they choose, and that frozen outputs are cached once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sidetune_core.api import Inputs, InputShapes
from sidetune_core.config import registry
from sidetune_core.config.kinds import BASE, SIDE
from sidetune_core.feature_cache.cache import GIB, FeatureCache

WITH_IMAGE: InputShapes = {"image": (3, 12, 12), "speed": (2,)}
VECTORS: InputShapes = {"speed": (2,), "touch": (5,)}


def make(kind: Any, name: str, *shapes: Any) -> Any:
    cls = registry.load(registry.find(kind, name))
    torch.manual_seed(0)
    return cls(cls.Config(), *shapes)


def batch(shapes: InputShapes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(4, *shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize(("shapes", "same"), [(WITH_IMAGE, "conv"), (VECTORS, "mlp")])
def test_it_is_the_network_that_suits_the_inputs(shapes: InputShapes, same: str) -> None:
    base, expected = make(BASE, "combined", shapes), make(BASE, same, shapes)
    inputs = batch(shapes)
    torch.testing.assert_close(base(inputs), expected(inputs), rtol=0, atol=0)
    assert (base.shape, base.tap_shapes) == (expected.shape, expected.tap_shapes)
    side, expected_side = make(SIDE, "combined", shapes, base), make(SIDE, same, shapes, base)
    torch.testing.assert_close(
        side(inputs, base(inputs)), expected_side(inputs, base(inputs)), rtol=0, atol=0
    )


def test_its_frozen_outputs_are_cached_once() -> None:
    base = make(BASE, "combined", VECTORS).requires_grad_(False).eval()
    cache = FeatureCache(GIB, taps=(), info=pytest.fail)
    cache.attach(base, "fp32")
    for _ in range(2):
        base(Inputs(batch(VECTORS), torch.arange(4)))
    used = cache.used
    mlp = make(BASE, "mlp", VECTORS).requires_grad_(False).eval()
    other = FeatureCache(GIB, taps=(), info=pytest.fail)
    other.attach(mlp, "fp32")
    mlp(Inputs(batch(VECTORS), torch.arange(4)))
    assert used == other.used > 0


def test_a_hook_on_its_network_is_called() -> None:
    base, calls = make(BASE, "combined", VECTORS), []
    base.network.register_forward_hook(lambda *_: calls.append("called"))
    base(batch(VECTORS))
    assert calls == ["called"]
