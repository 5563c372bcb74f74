"""Procedural textures: the colour of a material at a place of its surface."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .solids import Material

ROWS = 18
"""Numbers that a material is."""


def table(materials: Sequence[Material]) -> Tensor:
    """(ROWS, M): materials in columns, the order that `look` reads."""
    return torch.tensor(
        [
            (
                *one.colour,
                *one.second,
                *one.cell,
                one.shift,
                one.joint,
                one.tone,
                one.checker,
                one.dot,
                *one.grain,
                one.noise,
                one.gloss,
                one.glow,
            )
            for one in materials
        ]
    ).T.contiguous()


def look(
    rows: Tensor, u: Tensor, v: Tensor, footprint: Tensor, seed: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The colour (red, green, blue), gloss and glow of surfaces, each of the shape of `u`.

    Args:
        rows: (ROWS, *shape), the materials of the places.
        u: place along the surface's first direction, in metres.
        v: along its second.
        footprint: what a pixel covers there, in metres; patterns finer than it fade into their mean.
        seed: int32, of the noise.
    """
    (
        red,
        green,
        blue,
        red2,
        green2,
        blue2,
        wide,
        high,
        shift,
        joint,
        tone,
        checker,
        dot,
        fine_u,
        fine_v,
        noise,
        gloss,
        glow,
    ) = rows.unbind(0)
    small = torch.minimum(wide, high)
    y = v / high
    row = y.floor()
    number = row.int()
    ends = hashed(number, number, seed)
    x = u / wide + torch.where(shift > 1, ends, shift * row)
    column = x.floor()
    within_x, within_y = x - column, y - row
    number_x = column.int()
    odd = ((number_x + number) & 1).float()
    width = joint * small
    jointed = torch.maximum(
        _line(within_x * wide, wide, width, footprint), _line(within_y * high, high, width, footprint)
    )
    dx, dy = within_x - 0.5, within_y - 0.5
    dotted = (dx * dx + dy * dy < dot * dot).float()
    pattern = torch.maximum(checker * odd, dotted)
    mean = 0.5 * checker + 3 * dot * dot
    sharp = (1.5 - 2 * footprint / small).clamp(0, 1)
    pattern = torch.maximum(mean + (pattern - mean) * sharp, jointed)
    blur = (1.5 - footprint * torch.maximum(fine_u, fine_v)).clamp(0, 1)
    grain = noise * (0.5 + (_clouds(u * fine_u, v * fine_v, seed) - 0.5) * blur)
    mix = (pattern + grain).clamp(0, 1)
    bright = 1 + tone * sharp * (hashed(number_x, number, seed + 1) - 0.6)
    colours = [
        (one + (other - one) * mix) * bright for one, other in ((red, red2), (green, green2), (blue, blue2))
    ]
    return colours, gloss, glow


def _line(place: Tensor, period: Tensor, width: Tensor, footprint: Tensor) -> Tensor:
    """How much of what a pixel covers is on lines of some width that begin at every multiple of a period; `place` is in [0, period]."""
    low, high = place - footprint / 2, place + footprint / 2
    here = (torch.minimum(high, width) - low.clamp(min=0)).clamp(min=0)
    next_ = torch.minimum((high - period).clamp(min=0), width)
    return ((here + next_) / footprint).clamp(max=1)


def hashed(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """A number in [0, 1] for each lattice point and seed, all int32; products wrap around."""
    mixed = x * 374761393 + y * 668265263 + seed
    mixed = (mixed ^ (mixed >> 13)) * 1274126177
    return ((mixed ^ (mixed >> 16)) & 0xFFFF).float() * (1 / 65535)


def _clouds(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """Two octaves of value noise, in [0, 1]."""
    coarse, fine = _noise(x, y, seed), _noise(x * 2.17, y * 2.17, seed + 7)
    return coarse * 0.65 + fine * 0.35


def _noise(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    left, low = x.floor(), y.floor()
    a, b = x - left, y - low
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    i, k = left.int(), low.int()
    first, second = hashed(i, k, seed), hashed(i + 1, k, seed)
    third, fourth = hashed(i, k + 1, seed), hashed(i + 1, k + 1, seed)
    bottom, top = first + (second - first) * a, third + (fourth - third) * a
    return bottom + (top - bottom) * b
