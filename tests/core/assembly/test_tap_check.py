"""A side that declares which taps it reads is run with the others empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.assembly.tap_check import check_declared_taps
from sidetune_core.errors import PluginError
from sidetune_core.interfaces.inputs import Features
from sidetune_core.interfaces.networks import Side

FEATURES = Features(torch.ones(1, 2), tuple(torch.full((1, 2), float(k + 1)) for k in range(6)))


class Reading(Side):
    """The sum of some taps."""

    needs_taps = True

    def __init__(self, declared: Sequence[int], read: Sequence[int]) -> None:
        super().__init__()
        self.tap_indices, self._read = tuple(declared), read
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        return self.scale * torch.stack([features.taps[index] for index in self._read]).sum(0)


class Padding(Reading):
    """Reads an empty tap without an error, and as another number."""

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        return self.scale * torch.stack([features.taps[index].sum(1) for index in self._read], 1).sum(1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_side_may_read_fewer_taps_than_it_declares(device: str) -> None:
    features = Features(FEATURES.encoding.to(device), tuple(tap.to(device) for tap in FEATURES.taps))
    check_declared_taps("side 'x'", Reading([1, 4], [4]).to(device), {}, features)


@pytest.mark.parametrize("side", [Reading, Padding])
def test_all_taps_that_are_read_and_not_declared_are_named(side: type[Reading]) -> None:
    with pytest.raises(PluginError) as error:
        check_declared_taps("side 'x'", side([1], [0, 1, 2, 4, 5]), {}, FEATURES)
    assert str(error.value) == (
        "side 'x' reads taps 0, 2, 4 and 1 more of the base and sets tap_indices = (1,): no others are "
        "cached. Set tap_indices = (0, 1, 2, 4, 5), or None for all"
    )


def test_taps_that_the_base_does_not_have_are_named() -> None:
    with pytest.raises(PluginError, match=r"\(1, 6, -1\), and the base has 6 taps, .* there is no tap -1, 6"):
        check_declared_taps("side 'x'", Reading([1, 6, -1], [1]), {}, FEATURES)
