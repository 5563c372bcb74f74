"""The ladder: a side on the base's taps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from sidetune_core.config import registry
from sidetune_core.config.kinds import SIDE
from sidetune_core.errors import FitError
from sidetune_core.interfaces.inputs import Features
from sidetune_core.interfaces.networks import Base
from sidetune_core.testing import sample

INPUTS = {"image": (3, 32, 32)}


def ladder(base: Base, **options: Any) -> Any:
    cls = registry.load(registry.find(SIDE, "ladder"))
    return cls(cls.Config(**options), INPUTS, base).eval()


class Tapped(Base):
    """Returns random taps of the declared shapes."""

    Config = sample.Config

    def __init__(self, shape: tuple[int, ...], *taps: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.tap_shapes = shape, taps

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        batch = len(inputs["image"])
        return Features(
            torch.rand(batch, *self.shape), tuple(torch.rand(batch, *shape) for shape in self.tap_shapes)
        )


CIFAR = ((16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8))
IMAGES = {"image": torch.zeros(2, 3, 32, 32)}


ODD = (((4, 7, 9),), ((4, 2, 2), (4, 9, 9)), ((9,), (4, 8, 8)))


@pytest.mark.parametrize(
    ("shape", "taps"),
    [((64,), CIFAR), ((8, 4, 4), CIFAR), ((8, 16, 16), CIFAR), *(((5,), taps) for taps in ODD)],
)
def test_it_encodes_as_the_base_does(shape: tuple[int, ...], taps: tuple[tuple[int, ...], ...]) -> None:
    base = Tapped(shape, *taps)
    features = base(IMAGES)
    assert ladder(base)(IMAGES, features).shape == features.encoding.shape


def test_of_the_taps_of_one_size_the_deepest_is_used() -> None:
    base = Tapped((64,), *CIFAR)
    side, features = ladder(base), base(IMAGES)
    before = side(IMAGES, features)
    other_stem = features._replace(taps=(torch.rand(2, 16, 32, 32), *features.taps[1:]))
    assert torch.equal(side(IMAGES, other_stem), before)
    for index in (1, 2, 3):
        taps = list(features.taps)
        taps[index] = torch.rand_like(taps[index])
        assert not torch.equal(side(IMAGES, features._replace(taps=tuple(taps))), before)


def test_its_size_with_a_cifar_resnet_is_the_documented_one() -> None:
    count = sum(parameter.numel() for parameter in ladder(Tapped((64,), *CIFAR)).parameters())
    adapters, steps, last = 16 * 32 + 32 * 48 + 64 * 64, 9 * (32 * 48 + 48 * 64), 9 * 64 * 64
    assert count == adapters + steps + last + 2 * (32 + 48 + 64 + 64) == 84896


def test_a_base_without_maps_is_refused() -> None:
    for base in (Tapped((64,)), Tapped((64,), (16,)), Tapped((5, 8), (4, 8, 8))):
        with pytest.raises(FitError, match="side 'ladder' needs a base with taps"):
            ladder(base)
