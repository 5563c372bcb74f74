"""Built-in objects: kitchen and bathroom fixtures, columns, radiators, doors."""

from __future__ import annotations

import random

from .builder import Piece, SceneBuilder
from .ornaments import ornament
from .solids import Material, ceramic, dark_glass, metal, paint, sample_colour, wood


def counter(rng: random.Random) -> Piece:
    """A kitchen counter with an oven, a sink with a tap, a microwave or a toaster, and cupboards above."""
    w, d, h = rng.uniform(1.8, 3.0), 0.62, 0.9
    upper = rng.random() < 0.7

    def build(builder: SceneBuilder) -> None:
        front, top = (
            builder.add_material(rng.choice((wood, paint, paint))(rng)),
            builder.add_material(rng.choice((wood, paint))(rng)),
        )
        steel = builder.add_material(metal(rng))
        builder.set_labels()
        builder.box(0, d / 2 - 0.02, 0.08, w, d - 0.04, h - 0.12, front)
        builder.box(0, d / 2, h - 0.04, w, d, 0.04, top)
        doors = max(3, round(w / 0.6))
        hot = rng.randrange(doors)
        for k in range(doors):
            x = (k + 0.5) * w / doors - w / 2
            if k == hot:
                builder.set_labels("oven", "stove")
                builder.box(x, d - 0.02, 0.1, w / doors - 0.02, 0.04, 0.72, steel)
                builder.box(
                    x, d + 0.005, 0.2, w / doors - 0.12, 0.02, 0.38, builder.add_material(dark_glass(rng))
                )
                builder.cylinder(x, d + 0.03, 0.66, 0.015, w / doors - 0.15, steel)
                for side in (-1, 1):
                    builder.frustum(
                        x + side * 0.12, d / 2, h, 0.09, 0.09, 0.012, builder.add_material(dark_glass(rng))
                    )
            else:
                builder.set_labels()
                builder.box(x, d - 0.02, 0.1, w / doors - 0.02, 0.04, h - 0.18, front)
                builder.ellipsoid(x + 0.15, d + 0.02, 0.75, 0.02, 0.02, 0.02, steel)
        others = [k for k in range(doors) if k != hot]
        rng.shuffle(others)
        x = (others[0] + 0.5) * w / doors - w / 2
        builder.set_labels("sink", "washbasin")
        builder.ellipsoid(x, d / 2 + 0.03, h + 0.1, 0.23, 0.2, 0.11, steel, clip=0.0)
        builder.frustum(x, 0.08, h, 0.02, 0.015, 0.28, steel)
        builder.cylinder(x, 0.16, h + 0.27, 0.014, 0.18, steel, "along y")
        for k in others[1:3]:
            x = (k + 0.5) * w / doors - w / 2
            if (what := rng.random()) < 0.45:
                builder.set_labels("microwave", "microwave")
                builder.box(x, 0.24, h, 0.48, 0.36, 0.28, steel)
                builder.box(x - 0.06, 0.43, h + 0.04, 0.3, 0.02, 0.2, builder.add_material(dark_glass(rng)))
            elif what < 0.75:
                builder.set_labels("toaster", "toaster")
                body = builder.add_material(rng.choice((metal, paint))(rng))
                builder.box(x, 0.25, h + 0.01, 0.28, 0.15, 0.12, body)
                builder.cylinder(x, 0.25, h + 0.13, 0.075, 0.28, body)
            else:
                ornament(builder, rng, x, 0.3, h)
        if upper:
            builder.set_labels()
            builder.box(0, 0.17, 1.45, w, 0.34, 0.65, front)
            for k in range(doors):
                builder.box((k + 0.5) * w / doors - w / 2, 0.345, 1.47, w / doors - 0.03, 0.02, 0.61, front)

    return Piece(w, d, build)


def refrigerator(rng: random.Random) -> Piece:
    """Two doors with handles."""
    w, d, h, split = (
        rng.uniform(0.6, 0.85),
        rng.uniform(0.6, 0.7),
        rng.uniform(1.5, 1.95),
        rng.uniform(0.4, 0.7),
    )

    def build(builder: SceneBuilder) -> None:
        material, handle = builder.add_material(metal(rng)), builder.add_material(metal(rng))
        builder.set_labels("refrigerator", "refrigerator")
        builder.box(0, d / 2 - 0.03, 0, w, d - 0.06, h, material)
        builder.box(0, d - 0.025, 0.04, w, 0.05, split * h - 0.05, material)
        builder.box(0, d - 0.025, split * h, w, 0.05, h * (1 - split), material)
        builder.frustum(-w / 2 + 0.07, d + 0.03, split * h - 0.45, 0.014, 0.014, 0.35, handle)
        builder.frustum(-w / 2 + 0.07, d + 0.03, split * h + 0.05, 0.014, 0.014, 0.3, handle)

    return Piece(w, d, build)


def toilet(rng: random.Random) -> Piece:
    """Cistern, bowl, and a lid that may be up."""

    def build(builder: SceneBuilder) -> None:
        white = builder.add_material(ceramic(rng))
        builder.set_labels("toilet", "toilet seat")
        builder.box(0, 0.09, 0.38, 0.4, 0.18, 0.38, white)
        builder.frustum(0, 0.36, 0, 0.15, 0.12, 0.25, white)
        builder.ellipsoid(0, 0.4, 0.4, 0.2, 0.26, 0.24, white, clip=0.0)
        if rng.random() < 0.5:
            builder.box(0, 0.2, 0.42, 0.36, 0.03, 0.42, white)
        else:
            builder.frustum(0, 0.4, 0.4, 0.2, 0.2, 0.03, white)

    return Piece(0.5, 0.7, build)


def washbasin(rng: random.Random) -> Piece:
    """A basin on a column or a cabinet, a tap, a mirror."""
    w, h, column = rng.uniform(0.45, 0.7), rng.uniform(0.8, 0.88), rng.random() < 0.5

    def build(builder: SceneBuilder) -> None:
        white, steel = builder.add_material(ceramic(rng)), builder.add_material(metal(rng))
        builder.set_labels("sink", "washbasin")
        if column:
            builder.frustum(0, 0.2, 0, 0.12, 0.08, h - 0.15, white)
        else:
            builder.set_labels()
            builder.box(
                0, 0.23, 0.12, w, 0.44, h - 0.26, builder.add_material(rng.choice((wood, paint))(rng))
            )
            builder.set_labels("sink", "washbasin")
        builder.ellipsoid(0, 0.25, h, w / 2, 0.24, 0.16, white, clip=0.0)
        builder.frustum(0, 0.03, h - 0.1, 0.02, 0.016, 0.22, steel)
        builder.cylinder(0, 0.1, h + 0.11, 0.014, 0.14, steel, "along y")
        builder.set_labels()
        mirror = Material(
            sample_colour(rng, 0.6, 0.08, 0.75),
            sample_colour(rng, 0.6, 0.1, 0.5),
            noise_frequency=(2, 2),
            noise_amplitude=0.6,
            specular=0.8,
        )
        if rng.random() < 0.5:
            builder.box(0, 0.015, 1.2, w, 0.03, 0.7, builder.add_material(mirror))
        else:
            builder.ellipsoid(0, 0.01, 1.55, w / 2, 0.02, 0.35, builder.add_material(mirror))

    return Piece(w, 0.5, build)


def bathtub(rng: random.Random) -> Piece:
    """A panelled tub with rounded insides."""
    w, d, h = rng.uniform(1.5, 1.8), rng.uniform(0.7, 0.8), rng.uniform(0.5, 0.6)
    free = rng.random() < 0.4

    def build(builder: SceneBuilder) -> None:
        white, steel = builder.add_material(ceramic(rng)), builder.add_material(metal(rng))
        builder.set_labels("background", "bathtub")
        if free:
            builder.ellipsoid(0, d / 2, h, w / 2, d / 2, h - 0.02, white, clip=0.0)
        else:
            for y in (0.04, d - 0.04):
                builder.box(0, y, 0, w, 0.08, h, white)
            for x in (-w / 2 + 0.05, w / 2 - 0.05):
                builder.box(x, d / 2, 0, 0.1, d, h, white)
            builder.ellipsoid(0, d / 2, h - 0.01, w / 2 - 0.02, d / 2 - 0.02, h - 0.08, white, clip=0.0)
        builder.cylinder(-w / 2 + 0.3, 0.08, h + 0.15, 0.02, 0.16, steel, "along y")

    return Piece(w, d, build)


def washer(rng: random.Random) -> Piece:
    """A front loader."""

    def build(builder: SceneBuilder) -> None:
        white = builder.add_material(ceramic(rng))
        builder.set_labels("background", "washer")
        builder.box(0, 0.3, 0, 0.6, 0.58, 0.85, white)
        builder.ellipsoid(0, 0.58, 0.42, 0.2, 0.06, 0.2, builder.add_material(dark_glass(rng)))
        builder.box(0, 0.59, 0.7, 0.55, 0.03, 0.12, builder.add_material(paint(rng)))

    return Piece(0.62, 0.62, build)


def column(rng: random.Random) -> Piece:
    """A round or square pillar up to the ceiling."""
    r = rng.uniform(0.12, 0.3)

    def build(builder: SceneBuilder) -> None:
        builder.set_labels()
        material = builder.add_material(paint(rng))
        if rng.random() < 0.7:
            builder.frustum(0, r, 0, r, r, 3.5, material)
        else:
            builder.box(0, r, 0, 2 * r, 2 * r, 3.5, material)

    return Piece(2 * r, 2 * r, build)


def radiator(rng: random.Random) -> Piece:
    """Ribs under a window."""
    w = rng.uniform(0.6, 1.2)

    def build(builder: SceneBuilder) -> None:
        builder.set_labels("background", "radiator")
        material = builder.add_material(ceramic(rng))
        for k in range(max(4, round(w / 0.12))):
            builder.cylinder((k + 0.5) * 0.12 - w / 2, 0.08, 0.4, 0.04, 0.5, material, "upright")

    return Piece(w, 0.16, build)


def door(rng: random.Random) -> Piece:
    """A door in its frame."""

    def build(builder: SceneBuilder) -> None:
        builder.set_labels("background", "sliding door")
        frame, leaf = (
            builder.add_material(rng.choice((wood, paint))(rng)),
            builder.add_material(rng.choice((wood, paint))(rng)),
        )
        for side in (-1, 1):
            builder.box(side * 0.47, 0.03, 0, 0.08, 0.06, 2.05, frame)
        builder.box(0, 0.03, 2.05, 1.02, 0.06, 0.08, frame)
        builder.box(0, 0.015, 0, 0.86, 0.03, 2.05, leaf)
        if rng.random() < 0.5:
            for z in (0.25, 1.15):
                builder.box(0, 0.02, z, 0.6, 0.04, 0.7, leaf)
        builder.ellipsoid(0.35, 0.06, 1.0, 0.03, 0.03, 0.03, builder.add_material(metal(rng)))

    return Piece(1.05, 0.3, build)
