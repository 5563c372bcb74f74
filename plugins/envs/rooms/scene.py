"""Rooms: which furniture stands where, what is on the walls, where the light comes from, and where the camera is."""

from __future__ import annotations

import math
import random

import attrs

from sidetune_core.api import derive_seed

from . import fixtures, furniture, ornaments
from .joints import Frame, Joiner, Maker, Piece
from .solids import Axes, Material, Solid, Vector, fabric, metal, paint, scaled, tint, wood

KINDS = ("bathroom", "bedroom", "corridor", "dining room", "kitchen", "living room", "office", "storeroom")
"""What a room may be: the classes of the classification task."""


@attrs.frozen
class Camera:
    """A pinhole: its centre, its axes (right, up, forward) in room coordinates, and the tangent of half its field of view."""

    centre: Vector
    axes: Axes
    tangent: float


@attrs.frozen
class Light:
    """A point light: where, and its linear colour times its strength, which is about what arrives at 1 m."""

    place: Vector
    colour: Vector


@attrs.frozen
class Window:
    """An opening in a wall (0: x = 0, 1: x = width, 2: y = 0, 3: y = depth), between two places along it and two heights."""

    wall: int
    span: tuple[float, float]
    heights: tuple[float, float]


@attrs.frozen
class Scene:
    """One room as it is rendered. It fills [0, width] x [0, depth] x [0, height]; `materials` begins with those of its four walls, in the
    order of `Window.wall`, of its floor and of its ceiling."""

    kind: int
    """Index into `KINDS`."""
    size: Vector
    solids: tuple[Solid, ...]
    materials: tuple[Material, ...]
    windows: tuple[Window, ...]
    sky: Vector
    lights: tuple[Light, Light]
    ambient: Vector
    exposure: float
    camera: Camera
    seed: int
    """Of the noise in textures and of the sensor, below 2^31."""


SIZES: dict[str, tuple[float, float, float, float]] = {
    "bathroom": (1.9, 3.2, 2.0, 3.4),
    "bedroom": (3.0, 4.8, 3.0, 5.0),
    "corridor": (1.4, 2.2, 4.5, 10.0),
    "dining room": (3.2, 5.0, 3.4, 6.0),
    "kitchen": (2.6, 4.5, 3.0, 5.0),
    "living room": (3.6, 6.0, 4.0, 7.0),
    "office": (2.8, 5.0, 3.0, 6.0),
    "storeroom": (2.2, 4.0, 2.6, 5.0),
}
"""Least and largest width, least and largest depth."""

WHOLE: dict[str, tuple[Maker, ...]] = {
    "bathroom": (fixtures.toilet, fixtures.washbasin, fixtures.bathtub),
    "bedroom": (furniture.bed, furniture.wardrobe),
    "corridor": (fixtures.door, fixtures.door),
    "dining room": (furniture.table,),
    "kitchen": (fixtures.counter, fixtures.refrigerator),
    "living room": (furniture.couch, furniture.low_table),
    "office": (furniture.desk, furniture.shelf),
    "storeroom": (furniture.shelf, ornaments.crates, ornaments.crates),
}
"""What stands in every room of a kind."""

MAYBE: dict[str, tuple[Maker, ...]] = {
    "bathroom": (fixtures.washer, furniture.chest, ornaments.plant, furniture.stool, fixtures.radiator),
    "bedroom": (
        furniture.chest,
        furniture.chest,
        furniture.chair,
        ornaments.floor_lamp,
        ornaments.plant,
        ornaments.balls,
        furniture.shelf,
    ),
    "corridor": (
        furniture.chest,
        ornaments.plant,
        fixtures.column,
        fixtures.radiator,
        furniture.wardrobe,
        furniture.stool,
    ),
    "dining room": (
        furniture.chest,
        ornaments.plant,
        ornaments.floor_lamp,
        furniture.shelf,
        fixtures.column,
        furniture.couch,
    ),
    "kitchen": (
        furniture.table,
        furniture.chair,
        furniture.stool,
        ornaments.plant,
        furniture.shelf,
        fixtures.counter,
    ),
    "living room": (
        furniture.television,
        furniture.couch,
        furniture.shelf,
        ornaments.plant,
        ornaments.floor_lamp,
        furniture.chest,
        ornaments.balls,
        fixtures.column,
        furniture.stool,
    ),
    "office": (
        furniture.desk,
        furniture.chest,
        ornaments.plant,
        furniture.shelf,
        furniture.chair,
        fixtures.column,
        fixtures.radiator,
    ),
    "storeroom": (
        ornaments.crates,
        furniture.shelf,
        fixtures.washer,
        ornaments.balls,
        furniture.chair,
        fixtures.refrigerator,
    ),
}
"""What may stand there too."""

FREE = (
    furniture.table,
    furniture.low_table,
    ornaments.crates,
    ornaments.balls,
    furniture.chair,
    fixtures.column,
    furniture.stool,
)
"""What need not stand at a wall."""

HUNG: tuple[Maker, ...] = (ornaments.painting, ornaments.painting, ornaments.clock, ornaments.board)

Floor = tuple[float, float, float, float]
"""A rectangle of the floor: x from, x to, y from, y to."""


def sample_scene(seed: int, index: int) -> Scene:
    """Room number `index` of the series `seed`: a function of the two alone. A room's kind is ``index`` modulo the kinds."""
    rng = random.Random(derive_seed(seed, "rooms", index))
    number = index % len(KINDS)
    kind = KINDS[number]
    low, high, short, long = SIZES[kind]
    width, depth, height = rng.uniform(low, high), rng.uniform(short, long), rng.uniform(2.3, 3.1)
    at = Joiner(rng)
    _cover(at, kind)
    taken: list[Floor] = []
    hung: list[list[tuple[float, float]]] = [[], [], [], []]
    room = (width, depth, height)
    if kind != "corridor" and rng.random() < 0.6:
        _place(at, fixtures.door, room, taken, hung)
    for maker in WHOLE[kind]:
        _place(at, maker, room, taken, hung)
    for maker in rng.sample(MAYBE[kind], rng.randint(1, min(4, len(MAYBE[kind])))):
        _place(at, maker, room, taken, hung)
    if rng.random() < 0.5 and kind != "storeroom":
        _rug(at, room)
    windows = tuple(_window(at, wall, room, hung) for wall in rng.sample(range(4), rng.choice((0, 1, 1, 2))))
    for _ in range(rng.randint(0, 3)):
        _place(at, rng.choice(HUNG), room, [], hung)
    lights, ambient, sky = _light(at, room, windows)
    _skirting(at, room)
    return Scene(
        number,
        room,
        tuple(at.solids),
        tuple(at.materials),
        windows,
        sky,
        lights,
        ambient,
        rng.uniform(0.75, 1.35),
        _camera(rng, room, taken),
        rng.getrandbits(31),
    )


def _cover(at: Joiner, kind: str) -> None:
    """The materials of walls, floor and ceiling."""
    rng = at.rng
    wall = _wallpaper(rng)
    if kind in ("bathroom", "kitchen") and rng.random() < 0.6:
        wall = _tiles(rng, rng.uniform(0.1, 0.3))
    accent = _wallpaper(rng) if rng.random() < 0.35 else wall
    special = rng.randrange(4)
    for number in range(4):
        at.material(accent if number == special else wall)
    wet = kind in ("bathroom", "kitchen", "corridor", "storeroom")
    hard = wet and rng.random() < 0.7
    at.material(
        rng.choice(
            (_tiles(rng, rng.uniform(0.2, 0.6)), _concrete(rng)) if hard else (_planks(rng), _carpet(rng))
        )
    )
    colour = tint(rng, 0.12, 0.05, 0.95, 0.02)
    at.material(
        Material(
            colour,
            scaled(colour, 0.85),
            (0.6, 0.6),
            joint=rng.choice((0.0, 0.0, 0.03)),
            grain=(2, 2),
            noise=0.2,
        )
    )


def _wallpaper(rng: random.Random) -> Material:
    colour = tint(rng, None, rng.choice((0.05, 0.1, 0.3)), rng.uniform(0.6, 0.98))
    second = tint(rng, None, 0.3, rng.uniform(0.4, 0.95))
    width = rng.uniform(0.08, 0.3)
    pattern = rng.choice(
        ("plain", "plain", "plain", "plain", "stripes", "stripes", "dots", "bricks", "panels")
    )
    if pattern == "stripes":
        return Material(colour, second, (width, 50.0), checker=rng.uniform(0.2, 0.8), grain=(4, 4), noise=0.1)
    if pattern == "dots":
        return Material(
            colour, second, (width, width), 0.5, dot=rng.uniform(0.15, 0.35), grain=(4, 4), noise=0.1
        )
    if pattern == "bricks":
        brick = tint(rng, 0.04, 0.5, 0.6)
        return Material(
            brick, tint(rng, 0.1, 0.1, 0.75), (0.24, 0.08), 0.5, 0.08, 0.5, grain=(15, 15), noise=0.25
        )
    if pattern == "panels":
        return attrs.evolve(wood(rng), cell=(50.0, rng.uniform(0.1, 0.2)), joint=0.04)
    return Material(colour, scaled(colour, 0.75), grain=(1.5, 1.5), noise=rng.uniform(0.1, 0.5))


def _tiles(rng: random.Random, size: float) -> Material:
    colour = tint(rng, None, rng.choice((0.03, 0.3)), rng.uniform(0.4, 0.95))
    second = tint(rng, None, 0.1, rng.uniform(0.2, 0.9))
    checker = rng.choice((0.0, 0.0, rng.uniform(0.4, 1.0)))
    cell = (size, size * rng.choice((1.0, 1.0, 0.5)))
    tone = rng.uniform(0.0, 0.3)
    return Material(
        colour,
        second,
        cell,
        rng.choice((0.0, 0.5)),
        0.04,
        tone,
        checker,
        grain=(5, 5),
        noise=0.15,
        gloss=0.35,
    )


def _planks(rng: random.Random) -> Material:
    cell = (rng.uniform(0.7, 1.4), rng.uniform(0.08, 0.2))
    return attrs.evolve(
        wood(rng), cell=cell, joint=0.025, tone=rng.uniform(0.1, 0.5), gloss=rng.choice((0.0, 0.3))
    )


def _carpet(rng: random.Random) -> Material:
    colour = tint(rng, None, rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.8))
    return Material(colour, scaled(colour, 0.4), grain=(45, 45), noise=0.8)


def _concrete(rng: random.Random) -> Material:
    colour = tint(rng, 0.1, 0.05, rng.uniform(0.4, 0.7))
    return Material(colour, scaled(colour, 0.5), grain=(2.5, 2.5), noise=0.8)


def _place(
    at: Joiner, maker: Maker, room: Vector, taken: list[Floor], hung: list[list[tuple[float, float]]]
) -> None:
    """Make a piece where there is room for it, at a wall or free; leave it out where there is none."""
    rng = at.rng
    piece = maker(rng)
    for _ in range(14):
        wall = rng.randrange(4)
        length, across = (room[1], room[0]) if wall < 2 else (room[0], room[1])
        if piece.width > length - 0.1 or piece.depth > across - 0.6:
            continue
        along = rng.uniform(piece.width / 2 + 0.05, length - piece.width / 2 - 0.05)
        away = rng.uniform(0.3, across - piece.depth) if maker in FREE and rng.random() < 0.7 else 0.0
        frame = _at_wall(wall, along, away, room)
        floor = _footprint(frame, piece)
        span = (along - piece.width / 2, along + piece.width / 2)
        on_wall = away == 0 and (piece.height > 0 or maker is fixtures.door)
        if any(_overlap(floor, other) for other in taken) or (
            on_wall and any(_meet(span, other) for other in hung[wall])
        ):
            continue
        at.stand(attrs.evolve(frame, z=piece.height))
        piece.make(at)
        taken.append(floor)
        if on_wall:
            hung[wall].append(span)
        return


def _at_wall(wall: int, along: float, away: float, room: Vector) -> Frame:
    """The frame of a piece with its back at a wall, or as far from it as `away`."""
    if wall == 0:
        return Frame(away, along, 0.0, -math.pi / 2)
    if wall == 1:
        return Frame(room[0] - away, along, 0.0, math.pi / 2)
    return Frame(along, away, 0.0, 0.0) if wall == 2 else Frame(along, room[1] - away, 0.0, math.pi)


def _footprint(frame: Frame, piece: Piece) -> Floor:
    first, second = frame.point(-piece.width / 2, 0, 0), frame.point(piece.width / 2, piece.depth, 0)
    return (
        min(first[0], second[0]),
        max(first[0], second[0]),
        min(first[1], second[1]),
        max(first[1], second[1]),
    )


def _overlap(one: Floor, other: Floor) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _meet(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] + 0.05 and other[0] < one[1] + 0.05


def _rug(at: Joiner, room: Vector) -> None:
    rng = at.rng
    turn = rng.choice((0.0, 0.0, rng.uniform(-0.4, 0.4)))
    at.stand(Frame(room[0] * rng.uniform(0.35, 0.65), room[1] * rng.uniform(0.35, 0.65), 0.0, turn))
    w, d = room[0] * rng.uniform(0.3, 0.6), room[1] * rng.uniform(0.3, 0.6)
    if rng.random() < 0.3:
        at.tube(0, 0, 0, min(w, d) / 2, min(w, d) / 2, 0.012, at.material(fabric(rng)))
    else:
        at.box(0, 0, 0, w, d, 0.012, at.material(fabric(rng)))


def _window(at: Joiner, wall: int, room: Vector, hung: list[list[tuple[float, float]]]) -> Window:
    """An opening with a frame, a cross and maybe curtains, and nothing but the sky behind."""
    rng = at.rng
    length = room[1] if wall < 2 else room[0]
    width = min(rng.uniform(0.7, 2.0), length - 0.6)
    along = rng.uniform(width / 2 + 0.2, length - width / 2 - 0.2)
    low, high = rng.uniform(0.5, 1.1), rng.uniform(1.9, min(2.3, room[2] - 0.15))
    at.stand(attrs.evolve(_at_wall(wall, along, 0.0, room), z=low))
    frame = at.material(rng.choice((wood, paint))(rng))
    h = high - low
    for side in (-1, 1):
        at.box(side * (width / 2 + 0.03), 0.03, -0.06, 0.07, 0.06, h + 0.12, frame)
    for z in (-0.06, h):
        at.box(0, 0.04, z, width + 0.12, 0.08, 0.06, frame)
    if rng.random() < 0.7:
        at.box(0, 0.01, 0, 0.04, 0.03, h, frame)
        at.box(0, 0.01, h * rng.uniform(0.4, 0.7), width, 0.03, 0.04, frame)
    if rng.random() < 0.5:
        cloth = at.material(fabric(rng))
        for side in (-1, 1):
            for fold in range(3):
                at.tube(
                    side * (width / 2 - 0.05 + 0.09 * fold), 0.14, 0.06 - low, 0.06, 0.05, high + 0.1, cloth
                )
        at.roll(0, 0.14, h + 0.2, 0.02, width + 0.7, at.material(metal(rng)))
    span = (along - width / 2, along + width / 2)
    hung[wall].append((span[0] - 0.3, span[1] + 0.3))
    return Window(wall, span, (low, high))


def _light(
    at: Joiner, room: Vector, windows: tuple[Window, ...]
) -> tuple[tuple[Light, Light], Vector, Vector]:
    """A lamp at the ceiling, the daylight of a window or a second lamp, the ambient light, and the colour of the sky."""
    rng = at.rng
    x, y = room[0] * rng.uniform(0.35, 0.65), room[1] * rng.uniform(0.35, 0.65)
    drop = rng.uniform(0.15, 0.6) if rng.random() < 0.6 else 0.1
    at.stand(Frame(x, y, 0.0, 0.0))
    at.call("background", "lampshade")
    shade = at.material(Material((0.95, 0.9, 0.8), (1.0, 1.0, 1.0), glow=1.2))
    if drop > 0.1:
        at.tube(0, 0, room[2] - drop, 0.012, 0.012, drop, at.material(metal(rng)))
        at.tube(0, 0, room[2] - drop - 0.16, 0.2, 0.08, 0.2, shade)
    else:
        at.ball(0, 0, room[2], 0.2, 0.2, 0.1, shade)
    warm = rng.uniform(0.55, 1.0)
    strength = rng.uniform(0.5, 2.2) * (0.8 + 0.1 * room[0] * room[1] / 4)
    lamp = Light(
        (x, y, room[2] - drop - 0.3), (strength, strength * (0.5 + 0.5 * warm), strength * warm * warm)
    )
    day = rng.uniform(0.4, 3.0)
    sky = (0.5 * day, 0.65 * day, 0.9 * day)
    if windows:
        window = windows[0]
        place = _at_wall(window.wall, sum(window.span) / 2, 0.12, room).point(
            0, 0, 0.6 * window.heights[1] + 0.4 * window.heights[0]
        )
        area = (window.span[1] - window.span[0]) * (window.heights[1] - window.heights[0])
        second = Light(place, tuple(part * (0.6 + 0.5 * area) for part in (0.8 * day, 0.9 * day, day)))  # type: ignore[arg-type]
    else:
        place = (
            room[0] * rng.uniform(0.15, 0.85),
            room[1] * rng.uniform(0.15, 0.85),
            room[2] * rng.uniform(0.5, 0.95),
        )
        second = Light(place, scaled((0.9, 0.8, 0.6), rng.uniform(0.0, 0.8)))
    level = rng.uniform(0.12, 0.4)
    blue = rng.uniform(0.85, 1.1)
    return (lamp, second), (level, level * (0.5 + 0.5 * blue), level * blue), sky


def _skirting(at: Joiner, room: Vector) -> None:
    if at.rng.random() < 0.6:
        look, h = at.material(at.rng.choice((wood, paint))(at.rng)), at.rng.uniform(0.06, 0.12)
        for wall in range(4):
            length = room[1] if wall < 2 else room[0]
            at.stand(_at_wall(wall, length / 2, 0.0, room))
            at.box(0, 0.008, 0, length, 0.016, h, look)


def _camera(rng: random.Random, room: Vector, taken: list[Floor]) -> Camera:
    """A free place to stand, from which most of the furniture lies ahead; no roll."""
    best, place, target = -math.inf, (room[0] / 2, room[1] / 2), (room[0] / 2, 0.0)
    middles = [((one[0] + one[1]) / 2, (one[2] + one[3]) / 2) for one in taken] or [
        (room[0] / 2, room[1] / 2)
    ]
    for _ in range(24):
        x, y = rng.uniform(0.25, room[0] - 0.25), rng.uniform(0.25, room[1] - 0.25)
        aim = rng.choice(middles)
        gap = min(max(one[0] - x, x - one[1], one[2] - y, y - one[3]) for one in taken) if taken else 1.0
        far = math.hypot(aim[0] - x, aim[1] - y)
        score = min(gap, 0.35) * 6 + min(far, 3.0) + rng.random()
        if score > best:
            best, place, target = score, (x, y), aim
    z = rng.uniform(1.0, 1.7)
    yaw = math.atan2(target[1] - place[1], target[0] - place[0]) + rng.uniform(-0.35, 0.35)
    far = max(1.0, math.hypot(target[0] - place[0], target[1] - place[1]))
    pitch = max(-0.5, min(0.2, math.atan2(rng.uniform(0.3, 1.4) - z, far) + rng.uniform(-0.1, 0.15)))
    cos, sin = math.cos(yaw), math.sin(yaw)
    forward = (cos * math.cos(pitch), sin * math.cos(pitch), math.sin(pitch))
    up = (-cos * math.sin(pitch), -sin * math.sin(pitch), math.cos(pitch))
    return Camera(
        (*place, z), ((sin, -cos, 0.0), up, forward), math.tan(math.radians(rng.uniform(50, 75)) / 2)
    )
