"""What is built in: kitchen and bathroom, pillars, radiators, doors."""

from __future__ import annotations

import random

from .joints import Joiner, Piece
from .ornaments import ornament
from .solids import Material, ceramic, dark, metal, paint, tint, wood


def counter(rng: random.Random) -> Piece:
    """A kitchen counter with an oven, a sink with a tap, a microwave or a toaster, and cupboards above."""
    w, d, h = rng.uniform(1.8, 3.0), 0.62, 0.9
    upper = rng.random() < 0.7

    def make(at: Joiner) -> None:
        front, top = (
            at.material(rng.choice((wood, paint, paint))(rng)),
            at.material(rng.choice((wood, paint))(rng)),
        )
        steel = at.material(metal(rng))
        at.call()
        at.box(0, d / 2 - 0.02, 0.08, w, d - 0.04, h - 0.12, front)
        at.box(0, d / 2, h - 0.04, w, d, 0.04, top)
        doors = max(3, round(w / 0.6))
        hot = rng.randrange(doors)
        for k in range(doors):
            x = (k + 0.5) * w / doors - w / 2
            if k == hot:
                at.call("oven", "stove")
                at.box(x, d - 0.02, 0.1, w / doors - 0.02, 0.04, 0.72, steel)
                at.box(x, d + 0.005, 0.2, w / doors - 0.12, 0.02, 0.38, at.material(dark(rng)))
                at.roll(x, d + 0.03, 0.66, 0.015, w / doors - 0.15, steel)
                for side in (-1, 1):
                    at.tube(x + side * 0.12, d / 2, h, 0.09, 0.09, 0.012, at.material(dark(rng)))
            else:
                at.call()
                at.box(x, d - 0.02, 0.1, w / doors - 0.02, 0.04, h - 0.18, front)
                at.ball(x + 0.15, d + 0.02, 0.75, 0.02, 0.02, 0.02, steel)
        others = [k for k in range(doors) if k != hot]
        rng.shuffle(others)
        x = (others[0] + 0.5) * w / doors - w / 2
        at.call("sink", "washbasin")
        at.ball(x, d / 2 + 0.03, h + 0.1, 0.23, 0.2, 0.11, steel, clip=0.0)
        at.tube(x, 0.08, h, 0.02, 0.015, 0.28, steel)
        at.roll(x, 0.16, h + 0.27, 0.014, 0.18, steel, "along y")
        for k in others[1:3]:
            x = (k + 0.5) * w / doors - w / 2
            if (what := rng.random()) < 0.45:
                at.call("microwave", "microwave")
                at.box(x, 0.24, h, 0.48, 0.36, 0.28, steel)
                at.box(x - 0.06, 0.43, h + 0.04, 0.3, 0.02, 0.2, at.material(dark(rng)))
            elif what < 0.75:
                at.call("toaster", "toaster")
                body = at.material(rng.choice((metal, paint))(rng))
                at.box(x, 0.25, h + 0.01, 0.28, 0.15, 0.12, body)
                at.roll(x, 0.25, h + 0.13, 0.075, 0.28, body)
            else:
                ornament(at, rng, x, 0.3, h)
        if upper:
            at.call()
            at.box(0, 0.17, 1.45, w, 0.34, 0.65, front)
            for k in range(doors):
                at.box((k + 0.5) * w / doors - w / 2, 0.345, 1.47, w / doors - 0.03, 0.02, 0.61, front)

    return Piece(w, d, make)


def refrigerator(rng: random.Random) -> Piece:
    """Two doors with handles."""
    w, d, h, split = (
        rng.uniform(0.6, 0.85),
        rng.uniform(0.6, 0.7),
        rng.uniform(1.5, 1.95),
        rng.uniform(0.4, 0.7),
    )

    def make(at: Joiner) -> None:
        look, handle = at.material(metal(rng)), at.material(metal(rng))
        at.call("refrigerator", "refrigerator")
        at.box(0, d / 2 - 0.03, 0, w, d - 0.06, h, look)
        at.box(0, d - 0.025, 0.04, w, 0.05, split * h - 0.05, look)
        at.box(0, d - 0.025, split * h, w, 0.05, h * (1 - split), look)
        at.tube(-w / 2 + 0.07, d + 0.03, split * h - 0.45, 0.014, 0.014, 0.35, handle)
        at.tube(-w / 2 + 0.07, d + 0.03, split * h + 0.05, 0.014, 0.014, 0.3, handle)

    return Piece(w, d, make)


def toilet(rng: random.Random) -> Piece:
    """Cistern, bowl, and a lid that may be up."""

    def make(at: Joiner) -> None:
        white = at.material(ceramic(rng))
        at.call("toilet", "toilet seat")
        at.box(0, 0.09, 0.38, 0.4, 0.18, 0.38, white)
        at.tube(0, 0.36, 0, 0.15, 0.12, 0.25, white)
        at.ball(0, 0.4, 0.4, 0.2, 0.26, 0.24, white, clip=0.0)
        if rng.random() < 0.5:
            at.box(0, 0.2, 0.42, 0.36, 0.03, 0.42, white)
        else:
            at.tube(0, 0.4, 0.4, 0.2, 0.2, 0.03, white)

    return Piece(0.5, 0.7, make)


def washbasin(rng: random.Random) -> Piece:
    """A basin on a column or a cabinet, a tap, a mirror."""
    w, h, column = rng.uniform(0.45, 0.7), rng.uniform(0.8, 0.88), rng.random() < 0.5

    def make(at: Joiner) -> None:
        white, steel = at.material(ceramic(rng)), at.material(metal(rng))
        at.call("sink", "washbasin")
        if column:
            at.tube(0, 0.2, 0, 0.12, 0.08, h - 0.15, white)
        else:
            at.call()
            at.box(0, 0.23, 0.12, w, 0.44, h - 0.26, at.material(rng.choice((wood, paint))(rng)))
            at.call("sink", "washbasin")
        at.ball(0, 0.25, h, w / 2, 0.24, 0.16, white, clip=0.0)
        at.tube(0, 0.03, h - 0.1, 0.02, 0.016, 0.22, steel)
        at.roll(0, 0.1, h + 0.11, 0.014, 0.14, steel, "along y")
        at.call()
        mirror = Material(
            tint(rng, 0.6, 0.08, 0.75), tint(rng, 0.6, 0.1, 0.5), grain=(2, 2), noise=0.6, gloss=0.8
        )
        if rng.random() < 0.5:
            at.box(0, 0.015, 1.2, w, 0.03, 0.7, at.material(mirror))
        else:
            at.ball(0, 0.01, 1.55, w / 2, 0.02, 0.35, at.material(mirror))

    return Piece(w, 0.5, make)


def bathtub(rng: random.Random) -> Piece:
    """A panelled tub with rounded insides."""
    w, d, h = rng.uniform(1.5, 1.8), rng.uniform(0.7, 0.8), rng.uniform(0.5, 0.6)
    free = rng.random() < 0.4

    def make(at: Joiner) -> None:
        white, steel = at.material(ceramic(rng)), at.material(metal(rng))
        at.call("background", "bathtub")
        if free:
            at.ball(0, d / 2, h, w / 2, d / 2, h - 0.02, white, clip=0.0)
        else:
            for y in (0.04, d - 0.04):
                at.box(0, y, 0, w, 0.08, h, white)
            for x in (-w / 2 + 0.05, w / 2 - 0.05):
                at.box(x, d / 2, 0, 0.1, d, h, white)
            at.ball(0, d / 2, h - 0.01, w / 2 - 0.02, d / 2 - 0.02, h - 0.08, white, clip=0.0)
        at.roll(-w / 2 + 0.3, 0.08, h + 0.15, 0.02, 0.16, steel, "along y")

    return Piece(w, d, make)


def washer(rng: random.Random) -> Piece:
    """A front loader."""

    def make(at: Joiner) -> None:
        white = at.material(ceramic(rng))
        at.call("background", "washer")
        at.box(0, 0.3, 0, 0.6, 0.58, 0.85, white)
        at.ball(0, 0.58, 0.42, 0.2, 0.06, 0.2, at.material(dark(rng)))
        at.box(0, 0.59, 0.7, 0.55, 0.03, 0.12, at.material(paint(rng)))

    return Piece(0.62, 0.62, make)


def column(rng: random.Random) -> Piece:
    """A round or square pillar up to the ceiling."""
    r = rng.uniform(0.12, 0.3)

    def make(at: Joiner) -> None:
        at.call()
        look = at.material(paint(rng))
        if rng.random() < 0.7:
            at.tube(0, r, 0, r, r, 3.5, look)
        else:
            at.box(0, r, 0, 2 * r, 2 * r, 3.5, look)

    return Piece(2 * r, 2 * r, make)


def radiator(rng: random.Random) -> Piece:
    """Ribs under a window."""
    w = rng.uniform(0.6, 1.2)

    def make(at: Joiner) -> None:
        at.call("background", "radiator")
        look = at.material(ceramic(rng))
        for k in range(max(4, round(w / 0.12))):
            at.roll((k + 0.5) * 0.12 - w / 2, 0.08, 0.4, 0.04, 0.5, look, "upright")

    return Piece(w, 0.16, make)


def door(rng: random.Random) -> Piece:
    """A door in its frame."""

    def make(at: Joiner) -> None:
        at.call("background", "sliding door")
        frame, leaf = at.material(rng.choice((wood, paint))(rng)), at.material(rng.choice((wood, paint))(rng))
        for side in (-1, 1):
            at.box(side * 0.47, 0.03, 0, 0.08, 0.06, 2.05, frame)
        at.box(0, 0.03, 2.05, 1.02, 0.06, 0.08, frame)
        at.box(0, 0.015, 0, 0.86, 0.03, 2.05, leaf)
        if rng.random() < 0.5:
            for z in (0.25, 1.15):
                at.box(0, 0.02, z, 0.6, 0.04, 0.7, leaf)
        at.ball(0.35, 0.06, 1.0, 0.03, 0.03, 0.03, at.material(metal(rng)))

    return Piece(1.05, 0.3, make)
