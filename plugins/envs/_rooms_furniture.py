"""Furniture of the rooms: pieces made of a few solids each.

A piece stands in a frame of its own: x along its back from -width/2 to width/2, y from its back at 0 to its front at depth, z up from
the floor; metres.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import attrs

from ._rooms_solids import (
    BOX,
    ELLIPSOID,
    FRUSTUM,
    OBJECTS,
    SEMANTIC,
    Lie,
    Material,
    Solid,
    axes_of,
    ceramic,
    dark,
    fabric,
    lamp,
    leaves,
    metal,
    paint,
    picture,
    tint,
    wood,
)


@attrs.frozen
class Frame:
    """Where a piece stands in the room: the place of its origin, and its turn about z."""

    x: float
    y: float
    z: float
    yaw: float

    def point(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """A point of the frame in room coordinates."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return self.x + cos * x - sin * y, self.y + sin * x + cos * y, self.z + z

    def moved(self, x: float, y: float, turn: float) -> Frame:
        """A frame with its origin at (x, y, 0) of this one, and turned against it."""
        return Frame(*self.point(x, y, 0.0), self.yaw + turn)


class Joiner:
    """Puts solids into a room, in the frame of the piece that is being made."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.solids: list[Solid] = []
        self.materials: list[Material] = []
        self.frame = Frame(0.0, 0.0, 0.0, 0.0)
        self._semantic, self._object = 1, -1

    def stand(self, frame: Frame) -> None:
        """What follows is made in this frame."""
        self.frame = frame
        self.call()

    def call(self, semantic: str = "background", name: str = "") -> None:
        """What follows belongs to this class of `SEMANTIC`, and to this one of `OBJECTS` if there is any."""
        self._semantic, self._object = SEMANTIC.index(semantic), OBJECTS.get(name, -1)

    def material(self, material: Material) -> int:
        """The number of a material."""
        self.materials.append(material)
        return len(self.materials) - 1

    def box(self, x: float, y: float, z: float, w: float, d: float, h: float, material: int, turn: float = 0.0) -> None:
        """A box of w x d x h whose bottom's middle is (x, y, z)."""
        self._put(BOX, (x, y, z + h / 2), (w / 2, d / 2, h / 2), material, turn=turn)

    def ball(self, x: float, y: float, z: float, a: float, b: float, c: float, material: int, clip: float = 2.0) -> None:
        """An ellipsoid with centre (x, y, z) and semi-axes; below ``clip * c`` only, if `clip` is less than 1."""
        self._put(ELLIPSOID, (x, y, z), (a, b, c), material, clip=clip)

    def tube(self, x: float, y: float, z: float, low: float, high: float, h: float, material: int) -> None:
        """An upright frustum on (x, y, z): radius `low` at the bottom, `high` at the top."""
        self._put(FRUSTUM, (x, y, z + h / 2), (low, high, h / 2), material)

    def roll(self, x: float, y: float, z: float, r: float, length: float, material: int, lie: Lie = "along x") -> None:
        """A lying cylinder with centre (x, y, z)."""
        self._put(FRUSTUM, (x, y, z), (r, r, length / 2), material, lie=lie)

    def _put(
        self,
        kind: int,
        centre: tuple[float, float, float],
        size: tuple[float, float, float],
        material: int,
        clip: float = 2.0,
        turn: float = 0.0,
        lie: Lie = "upright",
    ) -> None:
        axes = axes_of(self.frame.yaw + turn, lie)
        self.solids.append(Solid(kind, self.frame.point(*centre), axes, size, clip, material, self._semantic, self._object))


@attrs.frozen
class Piece:
    """A piece of furniture: the floor that it takes, and how it is made."""

    width: float
    depth: float
    make: Callable[[Joiner], None]
    height: float = 0.0
    """Above the floor where it hangs on a wall."""


Maker = Callable[[random.Random], Piece]


def _legs(at: Joiner, w: float, d: float, h: float, material: int, r: float = 0.025, y: float = 0.0) -> None:
    for x in (-w / 2 + 2 * r, w / 2 - 2 * r):
        for depth in (y + 2 * r, y + d - 2 * r):
            at.tube(x, depth, 0, r, r, h, material)


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
            at.ball((k - (count - 1) / 2) * w / 2, 0.35, h + 0.24, min(0.35, w / 2.4 / count + 0.1), 0.22, 0.11, pillow)
        if rng.random() < 0.4:
            at.roll(0, start - 0.1, h + 0.26, 0.09, w * 0.7, cloth)

    return Piece(w, d, make)


def couch(rng: random.Random) -> Piece:
    """Seat, back, round or square arms, cushions."""
    w, d, h, arm = rng.uniform(1.2, 2.4), rng.uniform(0.8, 1.0), rng.uniform(0.38, 0.45), rng.uniform(0.14, 0.24)

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
        body, seat = at.material(rng.choice((wood, metal, paint))(rng)), at.material(rng.choice((fabric, wood, paint))(rng))
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


def ornament(at: Joiner, rng: random.Random, x: float, y: float, z: float) -> None:
    """A vase, a bowl, a bottle, a book, a potted plant, or nothing, on a surface of height z."""
    kind = rng.choice(("vase", "bowl", "bottle", "books", "plant", "lamp", "nothing"))
    if kind == "vase":
        at.call("vase", "vase")
        look, r, h = at.material(rng.choice((ceramic, paint, paint))(rng)), rng.uniform(0.06, 0.12), rng.uniform(0.08, 0.16)
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
        at.ball(x + rng.uniform(-0.7, 0.7) * r, y + rng.uniform(-0.7, 0.7) * r, z + h + rng.uniform(0.3, 1.2) * c, a, a, c, green)


def plant(rng: random.Random) -> Piece:
    """A pot with leaves, on the floor."""
    r = rng.uniform(0.14, 0.24)
    return Piece(2.4 * r, 2.4 * r, lambda at: _plant(at, rng, 0, 1.2 * r, 0, r, rng.uniform(1.2, 2) * r))


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
                    at.box(x + run / 2, d / 2, z + 0.025, run, 0.2, min(room, rng.uniform(0.18, 0.3)), at.material(look))
                elif what < 0.7:
                    ornament(at, rng, x + 0.12, d / 2, z + 0.025)
                    run = 0.3
                elif what < 0.85:
                    at.call()
                    at.box(x + 0.12, d / 2, z + 0.025, 0.22, d - 0.06, min(room, 0.2), at.material(paint(rng)))
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
    w, d, h, screen = rng.uniform(1.2, 1.8), rng.uniform(0.35, 0.45), rng.uniform(0.35, 0.55), rng.uniform(0.8, 1.3)

    def make(at: Joiner) -> None:
        at.call()
        at.box(0, d / 2, 0, w, d, h, at.material(rng.choice((wood, paint))(rng)))
        at.call("tv", "television")
        look = at.material(dark(rng))
        at.box(0, d / 2, h, 0.4, 0.2, 0.03, look)
        at.box(0, d / 2, h + 0.03, screen, 0.05, 0.56 * screen, look)
        ornament(at, rng, w / 2 - 0.15, d / 2, h)

    return Piece(w, d, make)


def low_table(rng: random.Random) -> Piece:
    """A coffee table on a rug."""
    w, d, h, round_top = rng.uniform(0.7, 1.2), rng.uniform(0.5, 0.8), rng.uniform(0.35, 0.48), rng.random() < 0.35

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


def counter(rng: random.Random) -> Piece:
    """A kitchen counter with an oven, a sink with a tap, a microwave or a toaster, and cupboards above."""
    w, d, h = rng.uniform(1.8, 3.0), 0.62, 0.9
    upper = rng.random() < 0.7

    def make(at: Joiner) -> None:
        front, top = at.material(rng.choice((wood, paint, paint))(rng)), at.material(rng.choice((wood, paint))(rng))
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
    w, d, h, split = rng.uniform(0.6, 0.85), rng.uniform(0.6, 0.7), rng.uniform(1.5, 1.95), rng.uniform(0.4, 0.7)

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
        mirror = Material(tint(rng, 0.6, 0.08, 0.75), tint(rng, 0.6, 0.1, 0.5), grain=(2, 2), noise=0.6, gloss=0.8)
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


def crates(rng: random.Random) -> Piece:
    """Cartons, tins and a barrel."""
    count = rng.randint(2, 5)

    def make(at: Joiner) -> None:
        card = at.material(attrs.evolve(wood(rng), cell=(5.0, 5.0), noise=0.3))
        at.call()
        z, size = 0.0, rng.uniform(0.4, 0.6)
        for _ in range(count):
            look = card if rng.random() < 0.6 else at.material(paint(rng))
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
