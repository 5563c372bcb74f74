"""Furniture: to lie and sit on, to eat and work at, and to keep things in."""

from __future__ import annotations

import math
import random

from .joints import Joiner, Piece
from .ornaments import ornament
from .solids import Material, dark, fabric, metal, paint, tint, wood


def bed(rng: random.Random) -> Piece:
    """Frame, headboard, mattress, blanket, pillows."""
    w, d, h = rng.uniform(0.95, 1.9), rng.uniform(1.9, 2.1), rng.uniform(0.25, 0.4)

    def make(at: Joiner) -> None:
        frame, cloth, pillow = at.material(wood(rng)), at.material(fabric(rng)), at.material(fabric(rng))
        at.call("bed", "four-poster")
        at.box(0, d / 2, 0, w, d, h, frame)
        at.box(0, 0.04, 0, w, 0.08, rng.uniform(0.8, 1.2), frame)
        at.box(0, d / 2 + 0.05, h, w - 0.06, d - 0.1, 0.18, at.material(paint(rng)))
        start = rng.uniform(0.6, 1.1)
        at.box(0, (start + d) / 2, h + 0.05, w, d - start, 0.17, cloth)
        count = 2 if w > 1.3 else 1
        for k in range(count):
            at.ball(
                (k - (count - 1) / 2) * w / 2,
                0.35,
                h + 0.24,
                min(0.35, w / 2.4 / count + 0.1),
                0.22,
                0.11,
                pillow,
            )
        if rng.random() < 0.4:
            at.roll(0, start - 0.1, h + 0.26, 0.09, w * 0.7, cloth)

    return Piece(w, d, make)


def couch(rng: random.Random) -> Piece:
    """Seat, back, round or square arms, cushions."""
    w, d, h, arm = (
        rng.uniform(1.2, 2.4),
        rng.uniform(0.8, 1.0),
        rng.uniform(0.38, 0.45),
        rng.uniform(0.14, 0.24),
    )

    def make(at: Joiner) -> None:
        cloth, cushion = at.material(fabric(rng)), at.material(fabric(rng))
        at.call("couch", "studio couch")
        at.box(0, d / 2, 0.08, w, d, h - 0.08, cloth)
        at.box(0, 0.12, h, w, 0.24, rng.uniform(0.3, 0.5), cloth)
        for side in (-1, 1):
            x = side * (w / 2 - arm / 2)
            at.box(x, d / 2, h, arm, d, 0.14, cloth)
            if arm > 0.18:
                at.roll(x, d / 2, h + 0.16, arm / 2 + 0.02, d, cloth, "along y")
        for _ in range(rng.randint(0, 3)):
            at.ball(rng.uniform(-0.3, 0.3) * w, 0.34, h + 0.2, 0.22, 0.1, 0.2, cushion)

    return Piece(w, d, make)


def chair(rng: random.Random) -> Piece:
    """Four legs or a column, a seat and a back."""
    w, d, h = rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.5), rng.uniform(0.42, 0.48)
    shell = rng.random() < 0.25

    def make(at: Joiner) -> None:
        body, seat = (
            at.material(rng.choice((wood, metal, paint))(rng)),
            at.material(rng.choice((fabric, wood, paint))(rng)),
        )
        at.call("chair", "folding chair")
        if shell:
            at.tube(0, d / 2, 0, 0.22, 0.04, 0.06, body)
            at.tube(0, d / 2, 0.06, 0.03, 0.03, h - 0.15, body)
            at.ball(0, d / 2, h + 0.12, 0.3, 0.28, 0.24, seat, clip=rng.uniform(0.1, 0.6))
            return
        _legs(at, w, d, h, body, 0.02)
        at.box(0, d / 2, h, w, d, rng.uniform(0.03, 0.09), seat)
        top = rng.uniform(0.38, 0.55)
        if rng.random() < 0.5:
            at.box(0, 0.02, h, w, 0.04, top, seat)
        else:
            for x in (-w / 2 + 0.03, 0.0, w / 2 - 0.03):
                at.box(x, 0.02, h, 0.03, 0.03, top, body)
            at.box(0, 0.02, h + top, w, 0.04, 0.08, body)

    return Piece(w, d, make)


def stool(rng: random.Random) -> Piece:
    """A round seat on a column, or a pouf."""
    r, h = rng.uniform(0.16, 0.24), rng.uniform(0.4, 0.75)

    def make(at: Joiner) -> None:
        at.call("chair")
        if h < 0.5:
            cloth = at.material(fabric(rng))
            at.ball(0, r, h / 2, r + 0.08, r + 0.08, h / 2, cloth)
            return
        body = at.material(metal(rng))
        at.tube(0, r, 0, r, 0.05, 0.05, body)
        at.tube(0, r, 0.05, 0.03, 0.03, h - 0.1, body)
        at.tube(0, r, h - 0.05, r, r, 0.07, at.material(fabric(rng)))

    return Piece(2 * r, 2 * r, make)


def table(rng: random.Random) -> Piece:
    """A dining table with its chairs, round or rectangular, and a vase or a bowl on it."""
    round_top, h = rng.random() < 0.4, rng.uniform(0.7, 0.78)
    w = rng.uniform(0.9, 1.3) if round_top else rng.uniform(1.2, 2.0)
    d = w if round_top else rng.uniform(0.75, 1.0)

    def make(at: Joiner) -> None:
        top = at.material(wood(rng))
        at.call("dining table", "dining table")
        middle = d / 2 + 0.6
        if round_top:
            at.tube(0, middle, h - 0.04, w / 2, w / 2, 0.04, top)
            at.tube(0, middle, 0, 0.3, 0.06, 0.1, top)
            at.tube(0, middle, 0.1, 0.06, 0.06, h - 0.14, top)
        else:
            at.box(0, middle, h - 0.05, w, d, 0.05, top)
            _legs(at, w, d, h - 0.05, top, 0.035, 0.6)
        ornament(at, rng, rng.uniform(-0.2, 0.2), middle, h)
        frame, state = at.frame, rng.getstate()
        spots = [(0.0, middle - d / 2 - 0.15, 0.0), (0.0, middle + d / 2 + 0.15, math.pi)]
        spots += [(-w / 2 - 0.15, middle, -math.pi / 2), (w / 2 + 0.15, middle, math.pi / 2)]
        turns = [turn + rng.uniform(-0.25, 0.25) for _, _, turn in spots]
        for (x, y, _), turn in list(zip(spots, turns, strict=True))[: rng.randint(2, 4)]:
            rng.setstate(state)  # chairs of one set
            seat = chair(rng)
            back = -seat.depth / 2 + 0.05
            at.stand(frame.moved(x - math.sin(turn) * back, y + math.cos(turn) * back, turn))
            seat.make(at)

    return Piece(w + 0.9, d + 1.2, make)


def low_table(rng: random.Random) -> Piece:
    """A coffee table on a rug."""
    w, d, h, round_top = (
        rng.uniform(0.7, 1.2),
        rng.uniform(0.5, 0.8),
        rng.uniform(0.35, 0.48),
        rng.random() < 0.35,
    )

    def make(at: Joiner) -> None:
        top = at.material(wood(rng))
        at.call()
        if round_top:
            at.tube(0, d / 2, h - 0.04, d / 2 + 0.05, d / 2 + 0.05, 0.04, top)
            at.tube(0, d / 2, 0.01, 0.2, 0.05, h - 0.05, top)
        else:
            at.box(0, d / 2, h - 0.05, w, d, 0.05, top)
            _legs(at, w, d, h - 0.05, top)
        ornament(at, rng, rng.uniform(-0.15, 0.15), d / 2, h)

    return Piece(w, d, make)


def desk(rng: random.Random) -> Piece:
    """A top on legs or drawers, a screen, books, a chair in front."""
    w, d, h = rng.uniform(1.1, 1.8), rng.uniform(0.6, 0.8), rng.uniform(0.7, 0.76)

    def make(at: Joiner) -> None:
        top, side = at.material(wood(rng)), at.material(rng.choice((wood, paint, metal))(rng))
        at.call("background", "desk")
        at.box(0, d / 2, h - 0.04, w, d, 0.04, top)
        at.box(w / 2 - 0.2, d / 2, 0, 0.4, d - 0.04, h - 0.04, side)
        at.box(-w / 2 + 0.03, d / 2, 0, 0.05, d - 0.04, h - 0.04, side)
        screen, x = at.material(dark(rng)), rng.uniform(-0.3, 0.1)
        at.call("tv", "monitor")
        at.box(x, 0.2, h, 0.2, 0.15, 0.02, screen)
        at.tube(x, 0.17, h, 0.03, 0.03, 0.15, screen)
        at.box(x, 0.2, h + 0.12, rng.uniform(0.4, 0.65), 0.03, 0.34, screen, turn=rng.uniform(-0.3, 0.3))
        ornament(at, rng, w / 2 - 0.25, rng.uniform(0.2, 0.4), h)
        seat = chair(rng)
        at.stand(at.frame.moved(rng.uniform(-0.3, 0), d + 0.5, math.pi + rng.uniform(-0.6, 0.6)))
        seat.make(at)

    return Piece(w, d + 0.6, make)


def shelf(rng: random.Random) -> Piece:
    """Boards with books, bottles, vases and boxes."""
    w, d, h, boards = rng.uniform(0.7, 1.3), rng.uniform(0.26, 0.4), rng.uniform(1.0, 2.1), rng.randint(3, 4)

    def make(at: Joiner) -> None:
        board = at.material(rng.choice((wood, wood, paint))(rng))
        at.call("background", "bookcase")
        for side in (-1, 1):
            at.box(side * (w / 2 - 0.015), d / 2, 0, 0.03, d, h, board)
        at.box(0, 0.01, 0, w, 0.02, h, board)
        for k in range(boards + 1):
            z = 0.06 + k * (h - 0.09) / boards
            at.call("background", "bookcase")
            at.box(0, d / 2, z, w - 0.06, d, 0.025, board)
            if k == boards:
                break
            x, room = -w / 2 + 0.05, (h - 0.09) / boards - 0.05
            while x < w / 2 - 0.2:
                run = rng.uniform(0.15, 0.4)
                if (what := rng.random()) < 0.5:  # a row of books, whose backs are the texture
                    at.call("book", "book jacket")
                    first, second = tint(rng, None, 0.5, 0.5), tint(rng, None, 0.5, 0.6)
                    look = Material(first, second, (rng.uniform(0.03, 0.06), 9.0), tone=0.9, checker=0.6)
                    run = min(run, w / 2 - 0.04 - x)
                    at.box(
                        x + run / 2,
                        d / 2,
                        z + 0.025,
                        run,
                        0.2,
                        min(room, rng.uniform(0.18, 0.3)),
                        at.material(look),
                    )
                elif what < 0.7:
                    ornament(at, rng, x + 0.12, d / 2, z + 0.025)
                    run = 0.3
                elif what < 0.85:
                    at.call()
                    at.box(
                        x + 0.12, d / 2, z + 0.025, 0.22, d - 0.06, min(room, 0.2), at.material(paint(rng))
                    )
                    run = 0.26
                x += run + 0.03

    return Piece(w, d, make)


def wardrobe(rng: random.Random) -> Piece:
    """Two doors with knobs."""
    w, d, h = rng.uniform(0.8, 1.6), rng.uniform(0.5, 0.65), rng.uniform(1.8, 2.2)

    def make(at: Joiner) -> None:
        body, knob = at.material(rng.choice((wood, wood, paint))(rng)), at.material(metal(rng))
        at.call("background", "wardrobe")
        at.box(0, d / 2 - 0.01, 0, w, d - 0.02, h, body)
        for side in (-1, 1):
            at.box(side * w / 4, d, 0.08, w / 2 - 0.02, 0.03, h - 0.12, body)
            at.ball(side * 0.06, d + 0.03, h / 2, 0.025, 0.025, 0.025, knob)

    return Piece(w, d, make)


def chest(rng: random.Random) -> Piece:
    """Drawers, with something on top."""
    w, d, h = rng.uniform(0.5, 1.2), rng.uniform(0.4, 0.5), rng.uniform(0.5, 1.0)
    rows = max(2, round(h / 0.25))

    def make(at: Joiner) -> None:
        body, knob = at.material(rng.choice((wood, paint))(rng)), at.material(metal(rng))
        at.call("background", "file cabinet" if w < 0.7 else "")
        at.box(0, d / 2 - 0.01, 0, w, d - 0.02, h, body)
        for k in range(rows):
            z = 0.04 + k * (h - 0.06) / rows
            at.box(0, d, z, w - 0.04, 0.03, (h - 0.06) / rows - 0.02, body)
            at.ball(0, d + 0.03, z + 0.1, 0.03, 0.02, 0.02, knob)
        ornament(at, rng, rng.uniform(-0.25, 0.25) * w, d / 2, h)

    return Piece(w, d, make)


def television(rng: random.Random) -> Piece:
    """A screen on a low board."""
    w, d, h, screen = (
        rng.uniform(1.2, 1.8),
        rng.uniform(0.35, 0.45),
        rng.uniform(0.35, 0.55),
        rng.uniform(0.8, 1.3),
    )

    def make(at: Joiner) -> None:
        at.call()
        at.box(0, d / 2, 0, w, d, h, at.material(rng.choice((wood, paint))(rng)))
        at.call("tv", "television")
        look = at.material(dark(rng))
        at.box(0, d / 2, h, 0.4, 0.2, 0.03, look)
        at.box(0, d / 2, h + 0.03, screen, 0.05, 0.56 * screen, look)
        ornament(at, rng, w / 2 - 0.15, d / 2, h)

    return Piece(w, d, make)


def _legs(at: Joiner, w: float, d: float, h: float, material: int, r: float = 0.025, y: float = 0.0) -> None:
    for x in (-w / 2 + 2 * r, w / 2 - 2 * r):
        for depth in (y + 2 * r, y + d - 2 * r):
            at.tube(x, depth, 0, r, r, h, material)
