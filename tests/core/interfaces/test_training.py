"""Steps of phases, and members of groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidetune_core.api import ParamGroup, Phase
from sidetune_core.interfaces.training import members, split_steps


@pytest.mark.parametrize(
    ("fractions", "total", "ends"),
    [((1.0,), 7, [7]), ((0.5, 0.5), 7, [4, 7]), ((0.3, 0.0, 0.7), 10, [3, 3, 10]), ((0.5, 0.5), 0, [0, 0])],
)
def test_phases_share_the_steps_without_a_gap(
    fractions: tuple[float, ...], total: int, ends: list[int]
) -> None:
    steps = split_steps([Phase(str(number), fraction) for number, fraction in enumerate(fractions)], total)
    assert [one.end for one in steps] == ends
    assert [one.first for one in steps] == [0, *ends[:-1]]


def test_thirds_make_a_whole() -> None:
    assert split_steps([Phase(name, 1 / 3) for name in "abc"], 10)[-1].end == 10


def test_the_members_of_groups_are_members() -> None:
    layer, weight = nn.Linear(1, 1), nn.Parameter(torch.zeros(1))
    assert members([layer, ParamGroup([weight], lr_scale=0.1)]) == [layer, weight]


def test_a_negative_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="lr_scale"):
        ParamGroup([], lr_scale=-1.0)
