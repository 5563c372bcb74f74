"""Procedural textures: the colour of a material at a surface point."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .solids import Material

MATERIAL_ROWS = 18
"""Number of parameters of a material."""


def pack_materials(materials: Sequence[Material]) -> Tensor:
    """(MATERIAL_ROWS, M): one material per column, in the row order of `evaluate_materials`."""
    return torch.tensor(
        [
            (
                *material.colour,
                *material.second_colour,
                *material.cell,
                material.row_shift,
                material.joint_width,
                material.cell_contrast,
                material.checker,
                material.dot_radius,
                *material.noise_frequency,
                material.noise_amplitude,
                material.specular,
                material.emission,
            )
            for material in materials
        ]
    ).T.contiguous()


def evaluate_materials(
    rows: Tensor, u: Tensor, v: Tensor, footprint: Tensor, seed: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Colour (red, green, blue), specular reflectance and emission of surfaces, each of the shape of `u`.

    Args:
        rows: (MATERIAL_ROWS, *shape), material parameters of the points.
        u: texture coordinate along the surface's first direction, in metres.
        v: along its second.
        footprint: size of the pixel on the surface, in metres; finer patterns fade to their mean.
        seed: int32, seed of the noise.
    """
    (
        red,
        green,
        blue,
        red2,
        green2,
        blue2,
        cell_width,
        cell_height,
        row_shift,
        joint_width,
        cell_contrast,
        checker,
        dot_radius,
        frequency_u,
        frequency_v,
        noise_amplitude,
        specular,
        emission,
    ) = rows.unbind(0)
    cell_size = torch.minimum(cell_width, cell_height)
    y = v / cell_height
    row_start = y.floor()
    row = row_start.int()
    random_shift = hash_noise(row, row, seed)
    x = u / cell_width + torch.where(row_shift > 1, random_shift, row_shift * row_start)
    column_start = x.floor()
    cell_x, cell_y = x - column_start, y - row_start
    column = column_start.int()
    odd = ((column + row) & 1).float()
    width = joint_width * cell_size
    joints = torch.maximum(
        _line_coverage(cell_x * cell_width, cell_width, width, footprint),
        _line_coverage(cell_y * cell_height, cell_height, width, footprint),
    )
    dx, dy = cell_x - 0.5, cell_y - 0.5
    dots = (dx * dx + dy * dy < dot_radius * dot_radius).float()
    pattern = torch.maximum(checker * odd, dots)
    mean = 0.5 * checker + 3 * dot_radius * dot_radius
    sharpness = (1.5 - 2 * footprint / cell_size).clamp(0, 1)
    pattern = torch.maximum(mean + (pattern - mean) * sharpness, joints)
    noise_sharpness = (1.5 - footprint * torch.maximum(frequency_u, frequency_v)).clamp(0, 1)
    fractal = _fractal_noise(u * frequency_u, v * frequency_v, seed)
    noise = noise_amplitude * (0.5 + (fractal - 0.5) * noise_sharpness)
    mix = (pattern + noise).clamp(0, 1)
    brightness = 1 + cell_contrast * sharpness * (hash_noise(column, row, seed + 1) - 0.6)
    pairs = ((red, red2), (green, green2), (blue, blue2))
    colours = [(first + (second - first) * mix) * brightness for first, second in pairs]
    return colours, specular, emission


def _line_coverage(position: Tensor, period: Tensor, width: Tensor, footprint: Tensor) -> Tensor:
    """Fraction of a pixel covered by lines at multiples of `period`; `position` is in [0, period]."""
    low, high = position - footprint / 2, position + footprint / 2
    this_line = (torch.minimum(high, width) - low.clamp(min=0)).clamp(min=0)
    next_line = torch.minimum((high - period).clamp(min=0), width)
    return ((this_line + next_line) / footprint).clamp(max=1)


def hash_noise(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """Pseudo-random values in [0, 1] for int32 lattice points and seeds; products wrap around."""
    mixed = x * 374761393 + y * 668265263 + seed
    mixed = (mixed ^ (mixed >> 13)) * 1274126177
    return ((mixed ^ (mixed >> 16)) & 0xFFFF).float() * (1 / 65535)


def _fractal_noise(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """Two octaves of value noise, in [0, 1]."""
    coarse, fine = _value_noise(x, y, seed), _value_noise(x * 2.17, y * 2.17, seed + 7)
    return coarse * 0.65 + fine * 0.35


def _value_noise(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    left, low = x.floor(), y.floor()
    a, b = x - left, y - low
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    i, k = left.int(), low.int()
    first, second = hash_noise(i, k, seed), hash_noise(i + 1, k, seed)
    third, fourth = hash_noise(i, k + 1, seed), hash_noise(i + 1, k + 1, seed)
    bottom, top = first + (second - first) * a, third + (fourth - third) * a
    return bottom + (top - bottom) * b
