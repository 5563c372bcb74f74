"""Small things: what lies on furniture, hangs on walls, or stands about on the floor."""

from __future__ import annotations

import random

import attrs

from .joints import Joiner, Piece
from .solids import ceramic, dark, fabric, lamp, leaves, metal, paint, picture, wood


def ornament(at: Joiner, rng: random.Random, x: float, y: float, z: float) -> None:
    """A vase, a bowl, a bottle, a book, a potted plant, or nothing, on a surface of height z."""
    kind = rng.choice(("vase", "bowl", "bottle", "books", "plant", "lamp", "nothing"))
    if kind == "vase":
        at.call("vase", "vase")
        look, r, h = (
            at.material(rng.choice((ceramic, paint, paint))(rng)),
            rng.uniform(0.06, 0.12),
            rng.uniform(0.08, 0.16),
        )
        at.ball(x, y, z + h, r, r, h, look)
        at.tube(x, y, z + 1.7 * h, 0.35 * r, 0.6 * r, 0.6 * h, look)
    elif kind == "bowl":
        at.call()
        r = rng.uniform(0.1, 0.18)
        at.ball(x, y, z + 0.6 * r, r, r, 0.6 * r, at.material(rng.choice((ceramic, paint))(rng)), clip=0.1)
    elif kind == "bottle":
        for k in range(rng.randint(1, 3)):
            at.call("bottle", rng.choice(("wine bottle", "beer bottle")))
            look = at.material(attrs.evolve(paint(rng), gloss=0.5))
            at.tube(x + 0.12 * k, y, z, 0.04, 0.04, 0.18, look)
            at.tube(x + 0.12 * k, y, z + 0.18, 0.04, 0.015, 0.1, look)
    elif kind == "books":
        at.call("book", "book jacket")
        height = 0.0
        for _ in range(rng.randint(1, 4)):
            thick = rng.uniform(0.02, 0.05)
            at.box(x, y, z + height, 0.24, 0.17, thick, at.material(paint(rng)), turn=rng.uniform(-0.4, 0.4))
            height += thick
    elif kind == "plant":
        _plant(at, rng, x, y, z, 0.1, 0.15)
    elif kind == "lamp":
        at.call("background", "table lamp")
        foot = at.material(rng.choice((metal, ceramic, paint))(rng))
        at.ball(x, y, z + 0.1, 0.08, 0.08, 0.1, foot)
        at.tube(x, y, z + 0.18, 0.015, 0.015, 0.12, foot)
        at.tube(x, y, z + 0.28, 0.15, 0.09, 0.2, at.material(lamp(rng)))


def _plant(at: Joiner, rng: random.Random, x: float, y: float, z: float, r: float, h: float) -> None:
    at.call("potted plant", "pot")
    at.tube(x, y, z, 0.7 * r, r, h, at.material(paint(rng)))
    green = at.material(leaves(rng))
    for _ in range(rng.randint(2, 4)):
        a, c = rng.uniform(0.6, 1.3) * r, rng.uniform(0.8, 2.2) * r
        at.ball(
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
    return Piece(2.4 * r, 2.4 * r, lambda at: _plant(at, rng, 0, 1.2 * r, 0, r, rng.uniform(1.2, 2) * r))


def crates(rng: random.Random) -> Piece:
    """Cartons, tins and a barrel."""
    count = rng.randint(2, 5)

    def make(at: Joiner) -> None:
        manifest = at.material(attrs.evolve(wood(rng), cell=(5.0, 5.0), noise=0.3))
        at.call()
        z, size = 0.0, rng.uniform(0.4, 0.6)
        for _ in range(count):
            look = manifest if rng.random() < 0.6 else at.material(paint(rng))
            h = rng.uniform(0.5, 0.9) * size
            if rng.random() < 0.3:
                at.tube(0, 0.3, z, size / 2.2, size / 2.2, h, look)
            else:
                at.box(0, 0.3, z, size, rng.uniform(0.8, 1) * size, h, look, turn=rng.uniform(-0.3, 0.3))
            z, size = z + h, max(0.25, size * rng.uniform(0.7, 1.0))
            if z > 1.5:
                break

    return Piece(0.6, 0.6, make)


def balls(rng: random.Random) -> Piece:
    """A ball or two on the floor."""

    def make(at: Joiner) -> None:
        at.call()
        for side in (-1, 1)[: rng.randint(1, 2)]:
            r = rng.uniform(0.08, 0.2)
            at.ball(side * 0.15, 0.2, r, r, r, r, at.material(fabric(rng)))

    return Piece(0.5, 0.4, make)


def floor_lamp(rng: random.Random) -> Piece:
    """A pole with a shade."""
    h = rng.uniform(1.3, 1.7)

    def make(at: Joiner) -> None:
        at.call("background", "lampshade")
        pole = at.material(metal(rng))
        at.tube(0, 0.2, 0, 0.15, 0.14, 0.03, pole)
        at.tube(0, 0.2, 0.03, 0.015, 0.015, h - 0.03, pole)
        if rng.random() < 0.5:
            at.tube(0, 0.2, h - 0.05, 0.2, 0.12, 0.28, at.material(lamp(rng)))
        else:
            at.ball(0, 0.2, h + 0.1, 0.16, 0.16, 0.16, at.material(lamp(rng)))

    return Piece(0.4, 0.4, make)


def painting(rng: random.Random) -> Piece:
    """A framed picture, hung."""
    w, h = rng.uniform(0.35, 1.2), rng.uniform(0.3, 0.9)

    def make(at: Joiner) -> None:
        at.call()
        at.box(0, 0.015, 0, w, 0.03, h, at.material(rng.choice((wood, paint))(rng)))
        at.box(0, 0.025, 0.04, w - 0.08, 0.03, h - 0.08, at.material(picture(rng)))

    return Piece(w, 0.05, make, rng.uniform(1.25, 1.5))


def clock(rng: random.Random) -> Piece:
    """A round wall clock."""
    r = rng.uniform(0.14, 0.24)

    def make(at: Joiner) -> None:
        at.call("clock", "wall clock")
        hand = at.material(dark(rng))
        at.roll(0, 0.02, r, r, 0.04, at.material(paint(rng)), "along y")
        at.roll(0, 0.025, r, 0.87 * r, 0.045, at.material(ceramic(rng)), "along y")
        at.box(0, 0.05, r, 0.02, 0.01, 0.7 * r, hand)
        at.box(0.2 * r, 0.05, r - 0.01, 0.5 * r, 0.01, 0.02, hand)

    return Piece(2 * r, 0.06, make, rng.uniform(1.6, 1.9))


def board(rng: random.Random) -> Piece:
    """A shelf on the wall with an ornament or two."""
    w = rng.uniform(0.5, 1.0)

    def make(at: Joiner) -> None:
        at.call()
        at.box(0, 0.11, 0, w, 0.22, 0.03, at.material(wood(rng)))
        ornament(at, rng, -0.25 * w, 0.11, 0.03)
        ornament(at, rng, 0.2 * w, 0.11, 0.03)

    return Piece(w, 0.22, make, rng.uniform(1.3, 1.6))
