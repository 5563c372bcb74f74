"""Furniture: beds, seats, tables, desks and storage."""

from __future__ import annotations

import math
import random

from .builder import Piece, SceneBuilder
from .ornaments import ornament
from .solids import Material, dark_glass, fabric, metal, paint, sample_colour, wood


def bed(rng: random.Random) -> Piece:
    """Frame, headboard, mattress, blanket, pillows."""
    w, d, h = rng.uniform(0.95, 1.9), rng.uniform(1.9, 2.1), rng.uniform(0.25, 0.4)

    def build(builder: SceneBuilder) -> None:
        frame, cloth, pillow = (
            builder.add_material(wood(rng)),
            builder.add_material(fabric(rng)),
            builder.add_material(fabric(rng)),
        )
        builder.set_labels("bed", "four-poster")
        builder.box(0, d / 2, 0, w, d, h, frame)
        builder.box(0, 0.04, 0, w, 0.08, rng.uniform(0.8, 1.2), frame)
        builder.box(0, d / 2 + 0.05, h, w - 0.06, d - 0.1, 0.18, builder.add_material(paint(rng)))
        start = rng.uniform(0.6, 1.1)
        builder.box(0, (start + d) / 2, h + 0.05, w, d - start, 0.17, cloth)
        count = 2 if w > 1.3 else 1
        for k in range(count):
            builder.ellipsoid(
                (k - (count - 1) / 2) * w / 2,
                0.35,
                h + 0.24,
                min(0.35, w / 2.4 / count + 0.1),
                0.22,
                0.11,
                pillow,
            )
        if rng.random() < 0.4:
            builder.cylinder(0, start - 0.1, h + 0.26, 0.09, w * 0.7, cloth)

    return Piece(w, d, build)


def couch(rng: random.Random) -> Piece:
    """Seat, back, round or square arms, cushions."""
    w, d, h, arm = (
        rng.uniform(1.2, 2.4),
        rng.uniform(0.8, 1.0),
        rng.uniform(0.38, 0.45),
        rng.uniform(0.14, 0.24),
    )

    def build(builder: SceneBuilder) -> None:
        cloth, cushion = builder.add_material(fabric(rng)), builder.add_material(fabric(rng))
        builder.set_labels("couch", "studio couch")
        builder.box(0, d / 2, 0.08, w, d, h - 0.08, cloth)
        builder.box(0, 0.12, h, w, 0.24, rng.uniform(0.3, 0.5), cloth)
        for side in (-1, 1):
            x = side * (w / 2 - arm / 2)
            builder.box(x, d / 2, h, arm, d, 0.14, cloth)
            if arm > 0.18:
                builder.cylinder(x, d / 2, h + 0.16, arm / 2 + 0.02, d, cloth, "along y")
        for _ in range(rng.randint(0, 3)):
            builder.ellipsoid(rng.uniform(-0.3, 0.3) * w, 0.34, h + 0.2, 0.22, 0.1, 0.2, cushion)

    return Piece(w, d, build)


def chair(rng: random.Random) -> Piece:
    """Four legs or a column, a seat and a back."""
    w, d, h = rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.5), rng.uniform(0.42, 0.48)
    shell = rng.random() < 0.25

    def build(builder: SceneBuilder) -> None:
        body, seat = (
            builder.add_material(rng.choice((wood, metal, paint))(rng)),
            builder.add_material(rng.choice((fabric, wood, paint))(rng)),
        )
        builder.set_labels("chair", "folding chair")
        if shell:
            builder.frustum(0, d / 2, 0, 0.22, 0.04, 0.06, body)
            builder.frustum(0, d / 2, 0.06, 0.03, 0.03, h - 0.15, body)
            builder.ellipsoid(0, d / 2, h + 0.12, 0.3, 0.28, 0.24, seat, clip=rng.uniform(0.1, 0.6))
            return
        _legs(builder, w, d, h, body, 0.02)
        builder.box(0, d / 2, h, w, d, rng.uniform(0.03, 0.09), seat)
        top = rng.uniform(0.38, 0.55)
        if rng.random() < 0.5:
            builder.box(0, 0.02, h, w, 0.04, top, seat)
        else:
            for x in (-w / 2 + 0.03, 0.0, w / 2 - 0.03):
                builder.box(x, 0.02, h, 0.03, 0.03, top, body)
            builder.box(0, 0.02, h + top, w, 0.04, 0.08, body)

    return Piece(w, d, build)


def stool(rng: random.Random) -> Piece:
    """A round seat on a column, or a pouf."""
    r, h = rng.uniform(0.16, 0.24), rng.uniform(0.4, 0.75)

    def build(builder: SceneBuilder) -> None:
        builder.set_labels("chair")
        if h < 0.5:
            cloth = builder.add_material(fabric(rng))
            builder.ellipsoid(0, r, h / 2, r + 0.08, r + 0.08, h / 2, cloth)
            return
        body = builder.add_material(metal(rng))
        builder.frustum(0, r, 0, r, 0.05, 0.05, body)
        builder.frustum(0, r, 0.05, 0.03, 0.03, h - 0.1, body)
        builder.frustum(0, r, h - 0.05, r, r, 0.07, builder.add_material(fabric(rng)))

    return Piece(2 * r, 2 * r, build)


def table(rng: random.Random) -> Piece:
    """A dining table with its chairs, round or rectangular, and a vase or a bowl on it."""
    round_top, h = rng.random() < 0.4, rng.uniform(0.7, 0.78)
    w = rng.uniform(0.9, 1.3) if round_top else rng.uniform(1.2, 2.0)
    d = w if round_top else rng.uniform(0.75, 1.0)

    def build(builder: SceneBuilder) -> None:
        top = builder.add_material(wood(rng))
        builder.set_labels("dining table", "dining table")
        middle = d / 2 + 0.6
        if round_top:
            builder.frustum(0, middle, h - 0.04, w / 2, w / 2, 0.04, top)
            builder.frustum(0, middle, 0, 0.3, 0.06, 0.1, top)
            builder.frustum(0, middle, 0.1, 0.06, 0.06, h - 0.14, top)
        else:
            builder.box(0, middle, h - 0.05, w, d, 0.05, top)
            _legs(builder, w, d, h - 0.05, top, 0.035, 0.6)
        ornament(builder, rng, rng.uniform(-0.2, 0.2), middle, h)
        frame, state = builder.frame, rng.getstate()
        spots = [(0.0, middle - d / 2 - 0.15, 0.0), (0.0, middle + d / 2 + 0.15, math.pi)]
        spots += [(-w / 2 - 0.15, middle, -math.pi / 2), (w / 2 + 0.15, middle, math.pi / 2)]
        turns = [turn + rng.uniform(-0.25, 0.25) for _, _, turn in spots]
        for (x, y, _), turn in list(zip(spots, turns, strict=True))[: rng.randint(2, 4)]:
            rng.setstate(state)  # identical chairs
            seat = chair(rng)
            back = -seat.depth / 2 + 0.05
            builder.set_frame(frame.child(x - math.sin(turn) * back, y + math.cos(turn) * back, turn))
            seat.build(builder)

    return Piece(w + 0.9, d + 1.2, build)


def low_table(rng: random.Random) -> Piece:
    """A coffee table on a rug."""
    w, d, h, round_top = (
        rng.uniform(0.7, 1.2),
        rng.uniform(0.5, 0.8),
        rng.uniform(0.35, 0.48),
        rng.random() < 0.35,
    )

    def build(builder: SceneBuilder) -> None:
        top = builder.add_material(wood(rng))
        builder.set_labels()
        if round_top:
            builder.frustum(0, d / 2, h - 0.04, d / 2 + 0.05, d / 2 + 0.05, 0.04, top)
            builder.frustum(0, d / 2, 0.01, 0.2, 0.05, h - 0.05, top)
        else:
            builder.box(0, d / 2, h - 0.05, w, d, 0.05, top)
            _legs(builder, w, d, h - 0.05, top)
        ornament(builder, rng, rng.uniform(-0.15, 0.15), d / 2, h)

    return Piece(w, d, build)


def desk(rng: random.Random) -> Piece:
    """A top on legs or drawers, a screen, books, a chair in front."""
    w, d, h = rng.uniform(1.1, 1.8), rng.uniform(0.6, 0.8), rng.uniform(0.7, 0.76)

    def build(builder: SceneBuilder) -> None:
        top, side = (
            builder.add_material(wood(rng)),
            builder.add_material(rng.choice((wood, paint, metal))(rng)),
        )
        builder.set_labels("background", "desk")
        builder.box(0, d / 2, h - 0.04, w, d, 0.04, top)
        builder.box(w / 2 - 0.2, d / 2, 0, 0.4, d - 0.04, h - 0.04, side)
        builder.box(-w / 2 + 0.03, d / 2, 0, 0.05, d - 0.04, h - 0.04, side)
        screen, x = builder.add_material(dark_glass(rng)), rng.uniform(-0.3, 0.1)
        builder.set_labels("tv", "monitor")
        builder.box(x, 0.2, h, 0.2, 0.15, 0.02, screen)
        builder.frustum(x, 0.17, h, 0.03, 0.03, 0.15, screen)
        builder.box(x, 0.2, h + 0.12, rng.uniform(0.4, 0.65), 0.03, 0.34, screen, turn=rng.uniform(-0.3, 0.3))
        ornament(builder, rng, w / 2 - 0.25, rng.uniform(0.2, 0.4), h)
        seat = chair(rng)
        builder.set_frame(
            builder.frame.child(rng.uniform(-0.3, 0), d + 0.5, math.pi + rng.uniform(-0.6, 0.6))
        )
        seat.build(builder)

    return Piece(w, d + 0.6, build)


def shelf(rng: random.Random) -> Piece:
    """Boards with books, bottles, vases and boxes."""
    w, d, h, boards = rng.uniform(0.7, 1.3), rng.uniform(0.26, 0.4), rng.uniform(1.0, 2.1), rng.randint(3, 4)

    def build(builder: SceneBuilder) -> None:
        board = builder.add_material(rng.choice((wood, wood, paint))(rng))
        builder.set_labels("background", "bookcase")
        for side in (-1, 1):
            builder.box(side * (w / 2 - 0.015), d / 2, 0, 0.03, d, h, board)
        builder.box(0, 0.01, 0, w, 0.02, h, board)
        for k in range(boards + 1):
            z = 0.06 + k * (h - 0.09) / boards
            builder.set_labels("background", "bookcase")
            builder.box(0, d / 2, z, w - 0.06, d, 0.025, board)
            if k == boards:
                break
            x, room = -w / 2 + 0.05, (h - 0.09) / boards - 0.05
            while x < w / 2 - 0.2:
                run = rng.uniform(0.15, 0.4)
                if (what := rng.random()) < 0.5:  # a row of books; the texture shows their spines
                    builder.set_labels("book", "book jacket")
                    first, second = sample_colour(rng, None, 0.5, 0.5), sample_colour(rng, None, 0.5, 0.6)
                    material = Material(
                        first, second, (rng.uniform(0.03, 0.06), 9.0), cell_contrast=0.9, checker=0.6
                    )
                    run = min(run, w / 2 - 0.04 - x)
                    builder.box(
                        x + run / 2,
                        d / 2,
                        z + 0.025,
                        run,
                        0.2,
                        min(room, rng.uniform(0.18, 0.3)),
                        builder.add_material(material),
                    )
                elif what < 0.7:
                    ornament(builder, rng, x + 0.12, d / 2, z + 0.025)
                    run = 0.3
                elif what < 0.85:
                    builder.set_labels()
                    builder.box(
                        x + 0.12,
                        d / 2,
                        z + 0.025,
                        0.22,
                        d - 0.06,
                        min(room, 0.2),
                        builder.add_material(paint(rng)),
                    )
                    run = 0.26
                x += run + 0.03

    return Piece(w, d, build)


def wardrobe(rng: random.Random) -> Piece:
    """Two doors with knobs."""
    w, d, h = rng.uniform(0.8, 1.6), rng.uniform(0.5, 0.65), rng.uniform(1.8, 2.2)

    def build(builder: SceneBuilder) -> None:
        body, knob = (
            builder.add_material(rng.choice((wood, wood, paint))(rng)),
            builder.add_material(metal(rng)),
        )
        builder.set_labels("background", "wardrobe")
        builder.box(0, d / 2 - 0.01, 0, w, d - 0.02, h, body)
        for side in (-1, 1):
            builder.box(side * w / 4, d, 0.08, w / 2 - 0.02, 0.03, h - 0.12, body)
            builder.ellipsoid(side * 0.06, d + 0.03, h / 2, 0.025, 0.025, 0.025, knob)

    return Piece(w, d, build)


def chest(rng: random.Random) -> Piece:
    """Drawers, with something on top."""
    w, d, h = rng.uniform(0.5, 1.2), rng.uniform(0.4, 0.5), rng.uniform(0.5, 1.0)
    rows = max(2, round(h / 0.25))

    def build(builder: SceneBuilder) -> None:
        body, knob = builder.add_material(rng.choice((wood, paint))(rng)), builder.add_material(metal(rng))
        builder.set_labels("background", "file cabinet" if w < 0.7 else "")
        builder.box(0, d / 2 - 0.01, 0, w, d - 0.02, h, body)
        for k in range(rows):
            z = 0.04 + k * (h - 0.06) / rows
            builder.box(0, d, z, w - 0.04, 0.03, (h - 0.06) / rows - 0.02, body)
            builder.ellipsoid(0, d + 0.03, z + 0.1, 0.03, 0.02, 0.02, knob)
        ornament(builder, rng, rng.uniform(-0.25, 0.25) * w, d / 2, h)

    return Piece(w, d, build)


def television(rng: random.Random) -> Piece:
    """A screen on a low board."""
    w, d, h, screen = (
        rng.uniform(1.2, 1.8),
        rng.uniform(0.35, 0.45),
        rng.uniform(0.35, 0.55),
        rng.uniform(0.8, 1.3),
    )

    def build(builder: SceneBuilder) -> None:
        builder.set_labels()
        builder.box(0, d / 2, 0, w, d, h, builder.add_material(rng.choice((wood, paint))(rng)))
        builder.set_labels("tv", "television")
        material = builder.add_material(dark_glass(rng))
        builder.box(0, d / 2, h, 0.4, 0.2, 0.03, material)
        builder.box(0, d / 2, h + 0.03, screen, 0.05, 0.56 * screen, material)
        ornament(builder, rng, w / 2 - 0.15, d / 2, h)

    return Piece(w, d, build)


def _legs(
    builder: SceneBuilder, w: float, d: float, h: float, material: int, r: float = 0.025, y: float = 0.0
) -> None:
    for x in (-w / 2 + 2 * r, w / 2 - 2 * r):
        for depth in (y + 2 * r, y + d - 2 * r):
            builder.frustum(x, depth, 0, r, r, h, material)
