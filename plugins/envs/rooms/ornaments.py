"""Small objects: on furniture, on walls and on the floor."""

from __future__ import annotations

import random

import attrs

from .builder import Piece, SceneBuilder
from .solids import canvas, ceramic, dark_glass, fabric, lampshade, leaves, metal, paint, wood


def ornament(builder: SceneBuilder, rng: random.Random, x: float, y: float, z: float) -> None:
    """A vase, bowl, bottle, pile of books, potted plant, lamp, or nothing, on a surface at height z."""
    kind = rng.choice(("vase", "bowl", "bottle", "books", "plant", "lamp", "nothing"))
    if kind == "vase":
        builder.set_labels("vase", "vase")
        material, r, h = (
            builder.add_material(rng.choice((ceramic, paint, paint))(rng)),
            rng.uniform(0.06, 0.12),
            rng.uniform(0.08, 0.16),
        )
        builder.ellipsoid(x, y, z + h, r, r, h, material)
        builder.frustum(x, y, z + 1.7 * h, 0.35 * r, 0.6 * r, 0.6 * h, material)
    elif kind == "bowl":
        builder.set_labels()
        r = rng.uniform(0.1, 0.18)
        builder.ellipsoid(
            x,
            y,
            z + 0.6 * r,
            r,
            r,
            0.6 * r,
            builder.add_material(rng.choice((ceramic, paint))(rng)),
            clip=0.1,
        )
    elif kind == "bottle":
        for k in range(rng.randint(1, 3)):
            builder.set_labels("bottle", rng.choice(("wine bottle", "beer bottle")))
            material = builder.add_material(attrs.evolve(paint(rng), specular=0.5))
            builder.frustum(x + 0.12 * k, y, z, 0.04, 0.04, 0.18, material)
            builder.frustum(x + 0.12 * k, y, z + 0.18, 0.04, 0.015, 0.1, material)
    elif kind == "books":
        builder.set_labels("book", "book jacket")
        height = 0.0
        for _ in range(rng.randint(1, 4)):
            thick = rng.uniform(0.02, 0.05)
            builder.box(
                x,
                y,
                z + height,
                0.24,
                0.17,
                thick,
                builder.add_material(paint(rng)),
                turn=rng.uniform(-0.4, 0.4),
            )
            height += thick
    elif kind == "plant":
        _plant(builder, rng, x, y, z, 0.1, 0.15)
    elif kind == "lamp":
        builder.set_labels("background", "table lamp")
        foot = builder.add_material(rng.choice((metal, ceramic, paint))(rng))
        builder.ellipsoid(x, y, z + 0.1, 0.08, 0.08, 0.1, foot)
        builder.frustum(x, y, z + 0.18, 0.015, 0.015, 0.12, foot)
        builder.frustum(x, y, z + 0.28, 0.15, 0.09, 0.2, builder.add_material(lampshade(rng)))


def _plant(
    builder: SceneBuilder, rng: random.Random, x: float, y: float, z: float, r: float, h: float
) -> None:
    builder.set_labels("potted plant", "pot")
    builder.frustum(x, y, z, 0.7 * r, r, h, builder.add_material(paint(rng)))
    green = builder.add_material(leaves(rng))
    for _ in range(rng.randint(2, 4)):
        a, c = rng.uniform(0.6, 1.3) * r, rng.uniform(0.8, 2.2) * r
        builder.ellipsoid(
            x + rng.uniform(-0.7, 0.7) * r,
            y + rng.uniform(-0.7, 0.7) * r,
            z + h + rng.uniform(0.3, 1.2) * c,
            a,
            a,
            c,
            green,
        )


def plant(rng: random.Random) -> Piece:
    """A pot with leaves, on the floor."""
    r = rng.uniform(0.14, 0.24)
    return Piece(
        2.4 * r, 2.4 * r, lambda builder: _plant(builder, rng, 0, 1.2 * r, 0, r, rng.uniform(1.2, 2) * r)
    )


def crates(rng: random.Random) -> Piece:
    """A stack of cartons and cans."""
    count = rng.randint(2, 5)

    def build(builder: SceneBuilder) -> None:
        cardboard = builder.add_material(attrs.evolve(wood(rng), cell=(5.0, 5.0), noise_amplitude=0.3))
        builder.set_labels()
        z, size = 0.0, rng.uniform(0.4, 0.6)
        for _ in range(count):
            material = cardboard if rng.random() < 0.6 else builder.add_material(paint(rng))
            h = rng.uniform(0.5, 0.9) * size
            if rng.random() < 0.3:
                builder.frustum(0, 0.3, z, size / 2.2, size / 2.2, h, material)
            else:
                builder.box(
                    0, 0.3, z, size, rng.uniform(0.8, 1) * size, h, material, turn=rng.uniform(-0.3, 0.3)
                )
            z, size = z + h, max(0.25, size * rng.uniform(0.7, 1.0))
            if z > 1.5:
                break

    return Piece(0.6, 0.6, build)


def balls(rng: random.Random) -> Piece:
    """A ball or two on the floor."""

    def build(builder: SceneBuilder) -> None:
        builder.set_labels()
        for side in (-1, 1)[: rng.randint(1, 2)]:
            r = rng.uniform(0.08, 0.2)
            builder.ellipsoid(side * 0.15, 0.2, r, r, r, r, builder.add_material(fabric(rng)))

    return Piece(0.5, 0.4, build)


def floor_lamp(rng: random.Random) -> Piece:
    """A pole with a shade."""
    h = rng.uniform(1.3, 1.7)

    def build(builder: SceneBuilder) -> None:
        builder.set_labels("background", "lampshade")
        pole = builder.add_material(metal(rng))
        builder.frustum(0, 0.2, 0, 0.15, 0.14, 0.03, pole)
        builder.frustum(0, 0.2, 0.03, 0.015, 0.015, h - 0.03, pole)
        if rng.random() < 0.5:
            builder.frustum(0, 0.2, h - 0.05, 0.2, 0.12, 0.28, builder.add_material(lampshade(rng)))
        else:
            builder.ellipsoid(0, 0.2, h + 0.1, 0.16, 0.16, 0.16, builder.add_material(lampshade(rng)))

    return Piece(0.4, 0.4, build)


def painting(rng: random.Random) -> Piece:
    """A framed painting on the wall."""
    w, h = rng.uniform(0.35, 1.2), rng.uniform(0.3, 0.9)

    def build(builder: SceneBuilder) -> None:
        builder.set_labels()
        builder.box(0, 0.015, 0, w, 0.03, h, builder.add_material(rng.choice((wood, paint))(rng)))
        builder.box(0, 0.025, 0.04, w - 0.08, 0.03, h - 0.08, builder.add_material(canvas(rng)))

    return Piece(w, 0.05, build, rng.uniform(1.25, 1.5))


def clock(rng: random.Random) -> Piece:
    """A round wall clock."""
    r = rng.uniform(0.14, 0.24)

    def build(builder: SceneBuilder) -> None:
        builder.set_labels("clock", "wall clock")
        hand = builder.add_material(dark_glass(rng))
        builder.cylinder(0, 0.02, r, r, 0.04, builder.add_material(paint(rng)), "along y")
        builder.cylinder(0, 0.025, r, 0.87 * r, 0.045, builder.add_material(ceramic(rng)), "along y")
        builder.box(0, 0.05, r, 0.02, 0.01, 0.7 * r, hand)
        builder.box(0.2 * r, 0.05, r - 0.01, 0.5 * r, 0.01, 0.02, hand)

    return Piece(2 * r, 0.06, build, rng.uniform(1.6, 1.9))


def board(rng: random.Random) -> Piece:
    """A shelf on the wall with an ornament or two."""
    w = rng.uniform(0.5, 1.0)

    def build(builder: SceneBuilder) -> None:
        builder.set_labels()
        builder.box(0, 0.11, 0, w, 0.22, 0.03, builder.add_material(wood(rng)))
        ornament(builder, rng, -0.25 * w, 0.11, 0.03)
        ornament(builder, rng, 0.2 * w, 0.11, 0.03)

    return Piece(w, 0.22, build, rng.uniform(1.3, 1.6))
