"""Solids, materials and labels that rooms are made of."""

from __future__ import annotations

import colorsys
import math
import random
from typing import Literal

import attrs

BOX, ELLIPSOID, FRUSTUM = range(3)
"""Kinds of solid, each with a closed form for where a ray meets it, its normal and its curvature."""

SEMANTIC = (
    "uncertain",
    "background",
    "bottle",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
)
"""The 18 labels of Taskonomy's semantic segmentation, in its order. Here only what lies beyond a window is uncertain."""

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
"""Classes of ImageNet that furniture belongs to, by their index."""

Vector = tuple[float, float, float]
Axes = tuple[Vector, Vector, Vector]
Lie = Literal["upright", "along x", "along y"]


@attrs.frozen
class Solid:
    """A box, ellipsoid or frustum in room coordinates: metres, z up.

    `size` is along the solid's own `axes`: half the edges of a box, the semi-axes of an ellipsoid, or of a frustum (radius at its lower
    end, radius at its upper end, half its height). An ellipsoid is cut open above ``clip * size[2]`` and then hollow: a bowl.
    """

    kind: int
    centre: Vector
    axes: Axes
    size: Vector
    clip: float
    material: int
    semantic: int
    object: int
    """Class of ImageNet, or -1."""

    def reach(self) -> Vector:
        """Half the edges of the box around it, along its own axes."""
        if self.kind == FRUSTUM:
            wide = max(self.size[:2])
            return wide, wide, self.size[2]
        return self.size


@attrs.frozen
class Material:
    """How a surface looks: two colours, and a pattern that mixes them. Lengths are in metres, colours linear in [0, 1]."""

    colour: Vector
    second: Vector = (0.0, 0.0, 0.0)
    cell: tuple[float, float] = (1.0, 1.0)
    """Width and height of a tile, plank, brick or stripe."""
    shift: float = 0.0
    """How far each row of cells is moved against the one below, in cells; 7 for planks of random ends."""
    joint: float = 0.0
    """Width of the joints in the second colour, as a share of the cell."""
    tone: float = 0.0
    """How much the cells differ in brightness."""
    checker: float = 0.0
    """Share of the second colour in every other cell."""
    dot: float = 0.0
    """Radius of a dot of the second colour in each cell, as a share of the cell."""
    grain: tuple[float, float] = (1.0, 1.0)
    """Noise, in cycles per metre along both directions."""
    noise: float = 0.0
    """Share of the second colour where the noise is strongest."""
    gloss: float = 0.0
    glow: float = 0.0
    """Light that it gives by itself."""


def axes_of(yaw: float, lie: Lie = "upright") -> Axes:
    """A solid's axes in room coordinates after turning it by `yaw` about z; lying, its own z points along the turned x or y."""
    across, along = (math.cos(yaw), math.sin(yaw), 0.0), (-math.sin(yaw), math.cos(yaw), 0.0)
    up = (0.0, 0.0, 1.0)
    if lie == "along x":
        return along, up, across
    return (up, across, along) if lie == "along y" else (across, along, up)


def tint(
    rng: random.Random,
    hue: float | None = None,
    saturation: float = 0.5,
    value: float = 0.6,
    spread: float = 0.08,
) -> Vector:
    """A linear colour near a hue (any where None), saturation and brightness in [0, 1]."""
    hue = rng.random() if hue is None else hue + rng.uniform(-spread, spread) / 2
    saturation = min(1.0, max(0.0, saturation + rng.uniform(-2, 2) * spread))
    value = min(1.0, max(0.05, value + rng.uniform(-2, 2) * spread))
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return red * red, green * green, blue * blue


def wood(rng: random.Random) -> Material:
    """Grain along the first direction of the surface, from pale birch to dark walnut."""
    value = rng.uniform(0.3, 0.85)
    colour = tint(rng, 0.08, 0.5, value)
    return Material(
        colour,
        scaled(colour, 0.55),
        (0.9, 0.3),
        7.0,
        0.0,
        0.2,
        grain=(1.5, rng.uniform(14, 30)),
        noise=0.9,
        gloss=rng.choice((0.0, 0.15)),
    )


def paint(rng: random.Random) -> Material:
    """One even colour, faintly stained."""
    colour = tint(rng, None, rng.choice((0.05, 0.35, 0.7)), rng.uniform(0.35, 0.95))
    return Material(colour, scaled(colour, 0.8), grain=(3, 3), noise=0.4, gloss=rng.choice((0.0, 0.1, 0.3)))


def fabric(rng: random.Random) -> Material:
    """Cloth: plain, striped, checked or dotted."""
    colour = tint(rng, None, rng.uniform(0.1, 0.75), rng.uniform(0.25, 0.9))
    second = tint(rng, None, rng.uniform(0.1, 0.7), rng.uniform(0.25, 0.95))
    width = rng.uniform(0.04, 0.16)
    pattern = rng.choice(("plain", "plain", "stripes", "checks", "dots"))
    if pattern == "plain":
        return Material(colour, scaled(colour, 0.6), grain=(40, 40), noise=0.5)
    if pattern == "dots":
        return Material(
            colour, second, (width, width), 0.5, dot=rng.uniform(0.2, 0.4), grain=(30, 30), noise=0.15
        )
    cell = (width, 50.0) if pattern == "stripes" else (width, width)
    return Material(colour, second, cell, checker=rng.uniform(0.5, 1.0), grain=(30, 30), noise=0.15)


def metal(rng: random.Random) -> Material:
    """Brushed steel, or enamel in white or black."""
    colour = rng.choice(
        (tint(rng, 0.6, 0.05, 0.7), tint(rng, 0.1, 0.03, 0.95, 0.02), tint(rng, 0.6, 0.1, 0.2, 0.03))
    )
    return Material(colour, scaled(colour, 0.7), grain=(2, 60), noise=0.35, gloss=0.5)


def ceramic(rng: random.Random) -> Material:
    """Sanitary ware."""
    colour = tint(rng, 0.12, 0.04, 0.95, 0.02)
    return Material(colour, colour, gloss=0.5)


def dark(rng: random.Random) -> Material:
    """A screen, or glass in front of a dark room."""
    colour = tint(rng, 0.6, 0.2, 0.15, 0.03)
    return Material(colour, scaled(colour, 2.5), grain=(3, 2), noise=0.8, gloss=0.6)


def lamp(rng: random.Random) -> Material:
    """A shade with a light in it."""
    colour = tint(rng, 0.11, 0.15, 0.9, 0.04)
    return Material(colour, colour, glow=rng.uniform(0.5, 1.1))


def leaves(rng: random.Random) -> Material:
    """Foliage."""
    colour = tint(rng, 0.3, 0.6, 0.45)
    return Material(colour, scaled(colour, 0.25), grain=(25, 25), noise=1.0)


def picture(rng: random.Random) -> Material:
    """Something on a canvas."""
    size = rng.uniform(0.08, 0.4)
    first, second = tint(rng, None, 0.6, 0.6), tint(rng, None, 0.5, 0.8)
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


def scaled(colour: Vector, factor: float) -> Vector:
    """The colour, darker or brighter."""
    red, green, blue = (min(1.0, factor * part) for part in colour)
    return red, green, blue
