"""Solids, materials and class labels of scenes."""

from __future__ import annotations

import colorsys
import math
import random
from typing import Literal

import attrs

BOX, ELLIPSOID, FRUSTUM = range(3)
"""Kinds of solid, each with closed forms for ray intersection, normal and curvature."""

OBJECTS = {
    "bathtub": 435,
    "beer bottle": 440,
    "bookcase": 453,
    "desk": 526,
    "dining table": 532,
    "file cabinet": 553,
    "folding chair": 559,
    "four-poster": 564,
    "lampshade": 619,
    "microwave": 651,
    "monitor": 664,
    "pot": 738,
    "radiator": 753,
    "refrigerator": 760,
    "sliding door": 799,
    "stove": 827,
    "studio couch": 831,
    "table lamp": 846,
    "television": 851,
    "toaster": 859,
    "toilet seat": 861,
    "vase": 883,
    "wall clock": 892,
    "wardrobe": 894,
    "washbasin": 896,
    "washer": 897,
    "wine bottle": 907,
    "book jacket": 921,
}
"""ImageNet classes of furniture, with their index."""

Vector = tuple[float, float, float]
Axes = tuple[Vector, Vector, Vector]
Orientation = Literal["upright", "along x", "along y"]


@attrs.frozen
class Solid:
    """A box, ellipsoid or frustum in room coordinates: metres, z up.

    `size` is along the solid's own `axes`: the half extents of a box, the semi-axes of an ellipsoid, or
    (bottom radius, top radius, half height) of a frustum. An ellipsoid is cut off above ``clip * size[2]``
    and then hollow: a bowl.
    """

    kind: int
    centre: Vector
    axes: Axes
    size: Vector
    clip: float
    material: int
    semantic: int
    object: int
    """ImageNet class, or -1."""

    def half_extents(self) -> Vector:
        """Half extents of the bounding box along its own axes."""
        if self.kind == FRUSTUM:
            radius = max(self.size[:2])
            return radius, radius, self.size[2]
        return self.size


@attrs.frozen
class Material:
    """A surface material: two colours mixed by a pattern. Lengths are in metres, colours linear in [0, 1]."""

    colour: Vector
    second_colour: Vector = (0.0, 0.0, 0.0)
    cell: tuple[float, float] = (1.0, 1.0)
    """Width and height of a tile, plank, brick or stripe."""
    row_shift: float = 0.0
    """Offset of each row of cells from the row below, in cells; above 1 for random offsets."""
    joint_width: float = 0.0
    """Width of the joints in the second colour, as a fraction of the cell."""
    cell_contrast: float = 0.0
    """Variation of brightness between cells."""
    checker: float = 0.0
    """Fraction of the second colour in every other cell."""
    dot_radius: float = 0.0
    """Radius of a dot of the second colour in each cell, as a fraction of the cell."""
    noise_frequency: tuple[float, float] = (1.0, 1.0)
    """In cycles per metre along both directions."""
    noise_amplitude: float = 0.0
    """Fraction of the second colour at the maximum of the noise."""
    specular: float = 0.0
    """Specular reflectance."""
    emission: float = 0.0
    """Emitted light."""


def solid_axes(yaw: float, orientation: Orientation = "upright") -> Axes:
    """Axes in room coordinates of a solid rotated by `yaw` about z, with its z axis up or along x or y."""
    across, along = (math.cos(yaw), math.sin(yaw), 0.0), (-math.sin(yaw), math.cos(yaw), 0.0)
    up = (0.0, 0.0, 1.0)
    if orientation == "along x":
        return along, up, across
    return (up, across, along) if orientation == "along y" else (across, along, up)


def sample_colour(
    rng: random.Random,
    hue: float | None = None,
    saturation: float = 0.5,
    value: float = 0.6,
    spread: float = 0.08,
) -> Vector:
    """Draw a linear colour near a hue (None for any), saturation and value in [0, 1]."""
    hue = rng.random() if hue is None else hue + rng.uniform(-spread, spread) / 2
    saturation = min(1.0, max(0.0, saturation + rng.uniform(-2, 2) * spread))
    value = min(1.0, max(0.05, value + rng.uniform(-2, 2) * spread))
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return red * red, green * green, blue * blue


def wood(rng: random.Random) -> Material:
    """Wood with grain along the first direction of the surface, from pale birch to dark walnut."""
    value = rng.uniform(0.3, 0.85)
    colour = sample_colour(rng, 0.08, 0.5, value)
    return Material(
        colour,
        scale_colour(colour, 0.55),
        (0.9, 0.3),
        7.0,
        0.0,
        0.2,
        noise_frequency=(1.5, rng.uniform(14, 30)),
        noise_amplitude=0.9,
        specular=rng.choice((0.0, 0.15)),
    )


def paint(rng: random.Random) -> Material:
    """Uniform paint with faint stains."""
    colour = sample_colour(rng, None, rng.choice((0.05, 0.35, 0.7)), rng.uniform(0.35, 0.95))
    return Material(
        colour,
        scale_colour(colour, 0.8),
        noise_frequency=(3, 3),
        noise_amplitude=0.4,
        specular=rng.choice((0.0, 0.1, 0.3)),
    )


def fabric(rng: random.Random) -> Material:
    """Cloth: plain, striped, checked or dotted."""
    colour = sample_colour(rng, None, rng.uniform(0.1, 0.75), rng.uniform(0.25, 0.9))
    second = sample_colour(rng, None, rng.uniform(0.1, 0.7), rng.uniform(0.25, 0.95))
    width = rng.uniform(0.04, 0.16)
    pattern = rng.choice(("plain", "plain", "stripes", "checks", "dots"))
    if pattern == "plain":
        return Material(colour, scale_colour(colour, 0.6), noise_frequency=(40, 40), noise_amplitude=0.5)
    if pattern == "dots":
        return Material(
            colour,
            second,
            (width, width),
            0.5,
            dot_radius=rng.uniform(0.2, 0.4),
            noise_frequency=(30, 30),
            noise_amplitude=0.15,
        )
    cell = (width, 50.0) if pattern == "stripes" else (width, width)
    return Material(
        colour, second, cell, checker=rng.uniform(0.5, 1.0), noise_frequency=(30, 30), noise_amplitude=0.15
    )


def metal(rng: random.Random) -> Material:
    """Brushed steel, or enamel in white or black."""
    colour = rng.choice(
        (
            sample_colour(rng, 0.6, 0.05, 0.7),
            sample_colour(rng, 0.1, 0.03, 0.95, 0.02),
            sample_colour(rng, 0.6, 0.1, 0.2, 0.03),
        )
    )
    return Material(
        colour, scale_colour(colour, 0.7), noise_frequency=(2, 60), noise_amplitude=0.35, specular=0.5
    )


def ceramic(rng: random.Random) -> Material:
    """White glazed ceramic."""
    colour = sample_colour(rng, 0.12, 0.04, 0.95, 0.02)
    return Material(colour, colour, specular=0.5)


def dark_glass(rng: random.Random) -> Material:
    """A screen, or the window of an appliance."""
    colour = sample_colour(rng, 0.6, 0.2, 0.15, 0.03)
    return Material(
        colour, scale_colour(colour, 2.5), noise_frequency=(3, 2), noise_amplitude=0.8, specular=0.6
    )


def lampshade(rng: random.Random) -> Material:
    """An emissive lampshade."""
    colour = sample_colour(rng, 0.11, 0.15, 0.9, 0.04)
    return Material(colour, colour, emission=rng.uniform(0.5, 1.1))


def leaves(rng: random.Random) -> Material:
    """Foliage."""
    colour = sample_colour(rng, 0.3, 0.6, 0.45)
    return Material(colour, scale_colour(colour, 0.25), noise_frequency=(25, 25), noise_amplitude=1.0)


def canvas(rng: random.Random) -> Material:
    """An abstract painting."""
    size = rng.uniform(0.08, 0.4)
    first, second = sample_colour(rng, None, 0.6, 0.6), sample_colour(rng, None, 0.5, 0.8)
    return Material(
        first,
        second,
        (size, size * rng.uniform(0.5, 2)),
        rng.choice((0.0, 0.3)),
        0.0,
        0.8,
        rng.random(),
        rng.uniform(0, 0.4),
        (6, 6),
        0.6,
    )


def scale_colour(colour: Vector, factor: float) -> Vector:
    """The colour times a factor, clamped to 1."""
    red, green, blue = (min(1.0, factor * channel) for channel in colour)
    return red, green, blue
