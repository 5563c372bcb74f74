"""Random scenes: furniture layout, wall decoration, lights and camera of a room."""

from __future__ import annotations

import math
import random

import attrs

from sidetune_core.api import derive_seed

from . import fixtures, furniture, ornaments
from .builder import Frame, Piece, PieceFactory, SceneBuilder
from .solids import Axes, Material, Solid, Vector, fabric, metal, paint, sample_colour, scale_colour, wood

KINDS = ("bathroom", "bedroom", "corridor", "dining room", "kitchen", "living room", "office", "storeroom")
"""Kinds of room: the classes of the classification task."""


@attrs.frozen
class Camera:
    """A pinhole camera: its centre, its axes (right, up, forward) in room coordinates, tan(field of view /
    2).
    """

    centre: Vector
    axes: Axes
    tan_half_fov: float


@attrs.frozen
class Light:
    """A point light: its position and its linear RGB intensity, roughly the irradiance at 1 m."""

    position: Vector
    colour: Vector


@attrs.frozen
class Window:
    """A window opening in a wall (0: x = 0, 1: x = width, 2: y = 0, 3: y = depth), in metres."""

    wall: int
    span: tuple[float, float]
    heights: tuple[float, float]


@attrs.frozen
class Scene:
    """A room to render, in [0, width] x [0, depth] x [0, height].

    `materials` begins with those of the four walls, in the order of `Window.wall`, the floor and the ceiling.
    """

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
    """Seed of the texture and sensor noise, below 2^31."""


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
"""Minimum and maximum width, minimum and maximum depth, in metres."""

REQUIRED: dict[str, tuple[PieceFactory, ...]] = {
    "bathroom": (fixtures.toilet, fixtures.washbasin, fixtures.bathtub),
    "bedroom": (furniture.bed, furniture.wardrobe),
    "corridor": (fixtures.door, fixtures.door),
    "dining room": (furniture.table,),
    "kitchen": (fixtures.counter, fixtures.refrigerator),
    "living room": (furniture.couch, furniture.low_table),
    "office": (furniture.desk, furniture.shelf),
    "storeroom": (furniture.shelf, ornaments.crates, ornaments.crates),
}
"""Pieces in every room of a kind."""

OPTIONAL: dict[str, tuple[PieceFactory, ...]] = {
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
"""Pieces that a room of a kind may have."""

FREESTANDING = (
    furniture.table,
    furniture.low_table,
    ornaments.crates,
    ornaments.balls,
    furniture.chair,
    fixtures.column,
    furniture.stool,
)
"""Pieces that may stand away from walls."""

WALL_MOUNTED: tuple[PieceFactory, ...] = (
    ornaments.painting,
    ornaments.painting,
    ornaments.clock,
    ornaments.board,
)

Rectangle = tuple[float, float, float, float]
"""A rectangle on the floor: x min, x max, y min, y max."""


PLACEMENT_ATTEMPTS = 14
CAMERA_ATTEMPTS = 24


def sample_scene(seed: int, index: int) -> Scene:
    """Sample room `index` of series `seed`, a function of both alone; its kind is ``index % len(KINDS)``."""
    rng = random.Random(derive_seed(seed, "rooms", index))
    kind_index = index % len(KINDS)
    kind = KINDS[kind_index]
    min_width, max_width, min_depth, max_depth = SIZES[kind]
    width, depth, height = (
        rng.uniform(min_width, max_width),
        rng.uniform(min_depth, max_depth),
        rng.uniform(2.3, 3.1),
    )
    builder = SceneBuilder(rng)
    _add_surfaces(builder, kind)
    occupied: list[Rectangle] = []
    occupied_walls: list[list[tuple[float, float]]] = [[], [], [], []]
    room = (width, depth, height)
    if kind != "corridor" and rng.random() < 0.6:
        _place_piece(builder, fixtures.door, room, occupied, occupied_walls)
    for factory in REQUIRED[kind]:
        _place_piece(builder, factory, room, occupied, occupied_walls)
    for factory in rng.sample(OPTIONAL[kind], rng.randint(1, min(4, len(OPTIONAL[kind])))):
        _place_piece(builder, factory, room, occupied, occupied_walls)
    if rng.random() < 0.5 and kind != "storeroom":
        _add_rug(builder, room)
    windows = tuple(
        _add_window(builder, wall, room, occupied_walls)
        for wall in rng.sample(range(4), rng.choice((0, 1, 1, 2)))
    )
    for _ in range(rng.randint(0, 3)):
        _place_piece(builder, rng.choice(WALL_MOUNTED), room, [], occupied_walls)
    lights, ambient, sky = _add_lights(builder, room, windows)
    _add_skirting(builder, room)
    return Scene(
        kind_index,
        room,
        tuple(builder.solids),
        tuple(builder.materials),
        windows,
        sky,
        lights,
        ambient,
        rng.uniform(0.75, 1.35),
        _place_camera(rng, room, occupied),
        rng.getrandbits(31),
    )


def _add_surfaces(builder: SceneBuilder, kind: str) -> None:
    """Add the materials of walls, floor and ceiling."""
    rng = builder.rng
    wall = _wallpaper(rng)
    if kind in ("bathroom", "kitchen") and rng.random() < 0.6:
        wall = _tiles(rng, rng.uniform(0.1, 0.3))
    accent = _wallpaper(rng) if rng.random() < 0.35 else wall
    special = rng.randrange(4)
    for index in range(4):
        builder.add_material(accent if index == special else wall)
    wet = kind in ("bathroom", "kitchen", "corridor", "storeroom")
    hard = wet and rng.random() < 0.7
    builder.add_material(
        rng.choice(
            (_tiles(rng, rng.uniform(0.2, 0.6)), _concrete(rng)) if hard else (_planks(rng), _carpet(rng))
        )
    )
    colour = sample_colour(rng, 0.12, 0.05, 0.95, 0.02)
    builder.add_material(
        Material(
            colour,
            scale_colour(colour, 0.85),
            (0.6, 0.6),
            joint_width=rng.choice((0.0, 0.0, 0.03)),
            noise_frequency=(2, 2),
            noise_amplitude=0.2,
        )
    )


def _wallpaper(rng: random.Random) -> Material:
    colour = sample_colour(rng, None, rng.choice((0.05, 0.1, 0.3)), rng.uniform(0.6, 0.98))
    second = sample_colour(rng, None, 0.3, rng.uniform(0.4, 0.95))
    width = rng.uniform(0.08, 0.3)
    pattern = rng.choice(
        ("plain", "plain", "plain", "plain", "stripes", "stripes", "dots", "bricks", "panels")
    )
    if pattern == "stripes":
        return Material(
            colour,
            second,
            (width, 50.0),
            checker=rng.uniform(0.2, 0.8),
            noise_frequency=(4, 4),
            noise_amplitude=0.1,
        )
    if pattern == "dots":
        return Material(
            colour,
            second,
            (width, width),
            0.5,
            dot_radius=rng.uniform(0.15, 0.35),
            noise_frequency=(4, 4),
            noise_amplitude=0.1,
        )
    if pattern == "bricks":
        brick = sample_colour(rng, 0.04, 0.5, 0.6)
        return Material(
            brick,
            sample_colour(rng, 0.1, 0.1, 0.75),
            (0.24, 0.08),
            0.5,
            0.08,
            0.5,
            noise_frequency=(15, 15),
            noise_amplitude=0.25,
        )
    if pattern == "panels":
        return attrs.evolve(wood(rng), cell=(50.0, rng.uniform(0.1, 0.2)), joint_width=0.04)
    return Material(
        colour, scale_colour(colour, 0.75), noise_frequency=(1.5, 1.5), noise_amplitude=rng.uniform(0.1, 0.5)
    )


def _tiles(rng: random.Random, size: float) -> Material:
    colour = sample_colour(rng, None, rng.choice((0.03, 0.3)), rng.uniform(0.4, 0.95))
    second = sample_colour(rng, None, 0.1, rng.uniform(0.2, 0.9))
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
        noise_frequency=(5, 5),
        noise_amplitude=0.15,
        specular=0.35,
    )


def _planks(rng: random.Random) -> Material:
    cell = (rng.uniform(0.7, 1.4), rng.uniform(0.08, 0.2))
    return attrs.evolve(
        wood(rng),
        cell=cell,
        joint_width=0.025,
        cell_contrast=rng.uniform(0.1, 0.5),
        specular=rng.choice((0.0, 0.3)),
    )


def _carpet(rng: random.Random) -> Material:
    colour = sample_colour(rng, None, rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.8))
    return Material(colour, scale_colour(colour, 0.4), noise_frequency=(45, 45), noise_amplitude=0.8)


def _concrete(rng: random.Random) -> Material:
    colour = sample_colour(rng, 0.1, 0.05, rng.uniform(0.4, 0.7))
    return Material(colour, scale_colour(colour, 0.5), noise_frequency=(2.5, 2.5), noise_amplitude=0.8)


def _place_piece(
    builder: SceneBuilder,
    factory: PieceFactory,
    room: Vector,
    occupied: list[Rectangle],
    occupied_walls: list[list[tuple[float, float]]],
) -> None:
    """Place a piece at a wall or freestanding by rejection sampling; skip it if no attempt fits."""
    rng = builder.rng
    piece = factory(rng)
    for _ in range(PLACEMENT_ATTEMPTS):
        wall = rng.randrange(4)
        length, across = (room[1], room[0]) if wall < 2 else (room[0], room[1])
        if piece.width > length - 0.1 or piece.depth > across - 0.6:
            continue
        along = rng.uniform(piece.width / 2 + 0.05, length - piece.width / 2 - 0.05)
        away = (
            rng.uniform(0.3, across - piece.depth) if factory in FREESTANDING and rng.random() < 0.7 else 0.0
        )
        frame = _at_wall(wall, along, away, room)
        floor = _footprint(frame, piece)
        span = (along - piece.width / 2, along + piece.width / 2)
        on_wall = away == 0 and (piece.height > 0 or factory is fixtures.door)
        if any(_overlap(floor, other) for other in occupied) or (
            on_wall and any(_spans_overlap(span, other) for other in occupied_walls[wall])
        ):
            continue
        builder.set_frame(attrs.evolve(frame, z=piece.height))
        piece.build(builder)
        occupied.append(floor)
        if on_wall:
            occupied_walls[wall].append(span)
        return


def _at_wall(wall: int, along: float, away: float, room: Vector) -> Frame:
    """The frame of a piece with its back at a distance of `away` from a wall."""
    if wall == 0:
        return Frame(away, along, 0.0, -math.pi / 2)
    if wall == 1:
        return Frame(room[0] - away, along, 0.0, math.pi / 2)
    return Frame(along, away, 0.0, 0.0) if wall == 2 else Frame(along, room[1] - away, 0.0, math.pi)


def _footprint(frame: Frame, piece: Piece) -> Rectangle:
    first, second = frame.point(-piece.width / 2, 0, 0), frame.point(piece.width / 2, piece.depth, 0)
    return (
        min(first[0], second[0]),
        max(first[0], second[0]),
        min(first[1], second[1]),
        max(first[1], second[1]),
    )


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _spans_overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] < b[1] + 0.05 and b[0] < a[1] + 0.05


def _add_rug(builder: SceneBuilder, room: Vector) -> None:
    rng = builder.rng
    turn = rng.choice((0.0, 0.0, rng.uniform(-0.4, 0.4)))
    builder.set_frame(Frame(room[0] * rng.uniform(0.35, 0.65), room[1] * rng.uniform(0.35, 0.65), 0.0, turn))
    w, d = room[0] * rng.uniform(0.3, 0.6), room[1] * rng.uniform(0.3, 0.6)
    if rng.random() < 0.3:
        builder.frustum(0, 0, 0, min(w, d) / 2, min(w, d) / 2, 0.012, builder.add_material(fabric(rng)))
    else:
        builder.box(0, 0, 0, w, d, 0.012, builder.add_material(fabric(rng)))


def _add_window(
    builder: SceneBuilder, wall: int, room: Vector, occupied_walls: list[list[tuple[float, float]]]
) -> Window:
    """Add a window with a frame, optional crossbars and curtains, and sky behind it."""
    rng = builder.rng
    length = room[1] if wall < 2 else room[0]
    width = min(rng.uniform(0.7, 2.0), length - 0.6)
    along = rng.uniform(width / 2 + 0.2, length - width / 2 - 0.2)
    low, high = rng.uniform(0.5, 1.1), rng.uniform(1.9, min(2.3, room[2] - 0.15))
    builder.set_frame(attrs.evolve(_at_wall(wall, along, 0.0, room), z=low))
    frame = builder.add_material(rng.choice((wood, paint))(rng))
    h = high - low
    for side in (-1, 1):
        builder.box(side * (width / 2 + 0.03), 0.03, -0.06, 0.07, 0.06, h + 0.12, frame)
    for z in (-0.06, h):
        builder.box(0, 0.04, z, width + 0.12, 0.08, 0.06, frame)
    if rng.random() < 0.7:
        builder.box(0, 0.01, 0, 0.04, 0.03, h, frame)
        builder.box(0, 0.01, h * rng.uniform(0.4, 0.7), width, 0.03, 0.04, frame)
    if rng.random() < 0.5:
        cloth = builder.add_material(fabric(rng))
        for side in (-1, 1):
            for fold in range(3):
                builder.frustum(
                    side * (width / 2 - 0.05 + 0.09 * fold), 0.14, 0.06 - low, 0.06, 0.05, high + 0.1, cloth
                )
        builder.cylinder(0, 0.14, h + 0.2, 0.02, width + 0.7, builder.add_material(metal(rng)))
    span = (along - width / 2, along + width / 2)
    occupied_walls[wall].append((span[0] - 0.3, span[1] + 0.3))
    return Window(wall, span, (low, high))


def _add_lights(
    builder: SceneBuilder, room: Vector, windows: tuple[Window, ...]
) -> tuple[tuple[Light, Light], Vector, Vector]:
    """A ceiling lamp, daylight through a window or a second lamp; ambient light and sky colour."""
    rng = builder.rng
    x, y = room[0] * rng.uniform(0.35, 0.65), room[1] * rng.uniform(0.35, 0.65)
    drop = rng.uniform(0.15, 0.6) if rng.random() < 0.6 else 0.1
    builder.set_frame(Frame(x, y, 0.0, 0.0))
    builder.set_labels("background", "lampshade")
    shade = builder.add_material(Material((0.95, 0.9, 0.8), (1.0, 1.0, 1.0), emission=1.2))
    if drop > 0.1:
        builder.frustum(0, 0, room[2] - drop, 0.012, 0.012, drop, builder.add_material(metal(rng)))
        builder.frustum(0, 0, room[2] - drop - 0.16, 0.2, 0.08, 0.2, shade)
    else:
        builder.ellipsoid(0, 0, room[2], 0.2, 0.2, 0.1, shade)
    warm = rng.uniform(0.55, 1.0)
    strength = rng.uniform(0.5, 2.2) * (0.8 + 0.1 * room[0] * room[1] / 4)
    lamp = Light(
        (x, y, room[2] - drop - 0.3), (strength, strength * (0.5 + 0.5 * warm), strength * warm * warm)
    )
    day = rng.uniform(0.4, 3.0)
    sky = (0.5 * day, 0.65 * day, 0.9 * day)
    if windows:
        window = windows[0]
        position = _at_wall(window.wall, sum(window.span) / 2, 0.12, room).point(
            0, 0, 0.6 * window.heights[1] + 0.4 * window.heights[0]
        )
        area = (window.span[1] - window.span[0]) * (window.heights[1] - window.heights[0])
        daylight = 0.6 + 0.5 * area
        second = Light(position, (0.8 * day * daylight, 0.9 * day * daylight, day * daylight))
    else:
        position = (
            room[0] * rng.uniform(0.15, 0.85),
            room[1] * rng.uniform(0.15, 0.85),
            room[2] * rng.uniform(0.5, 0.95),
        )
        second = Light(position, scale_colour((0.9, 0.8, 0.6), rng.uniform(0.0, 0.8)))
    level = rng.uniform(0.12, 0.4)
    blue = rng.uniform(0.85, 1.1)
    return (lamp, second), (level, level * (0.5 + 0.5 * blue), level * blue), sky


def _add_skirting(builder: SceneBuilder, room: Vector) -> None:
    if builder.rng.random() < 0.6:
        material, h = (
            builder.add_material(builder.rng.choice((wood, paint))(builder.rng)),
            builder.rng.uniform(0.06, 0.12),
        )
        for wall in range(4):
            length = room[1] if wall < 2 else room[0]
            builder.set_frame(_at_wall(wall, length / 2, 0.0, room))
            builder.box(0, 0.008, 0, length, 0.016, h, material)


def _place_camera(rng: random.Random, room: Vector, occupied: list[Rectangle]) -> Camera:
    """Choose an unoccupied position that faces furniture; the camera has no roll."""
    best, position, target = -math.inf, (room[0] / 2, room[1] / 2), (room[0] / 2, 0.0)
    centres = [
        ((rectangle[0] + rectangle[1]) / 2, (rectangle[2] + rectangle[3]) / 2) for rectangle in occupied
    ] or [(room[0] / 2, room[1] / 2)]
    for _ in range(CAMERA_ATTEMPTS):
        x, y = rng.uniform(0.25, room[0] - 0.25), rng.uniform(0.25, room[1] - 0.25)
        aim = rng.choice(centres)
        gap = (
            min(
                max(rectangle[0] - x, x - rectangle[1], rectangle[2] - y, y - rectangle[3])
                for rectangle in occupied
            )
            if occupied
            else 1.0
        )
        far = math.hypot(aim[0] - x, aim[1] - y)
        score = min(gap, 0.35) * 6 + min(far, 3.0) + rng.random()
        if score > best:
            best, position, target = score, (x, y), aim
    z = rng.uniform(1.0, 1.7)
    yaw = math.atan2(target[1] - position[1], target[0] - position[0]) + rng.uniform(-0.35, 0.35)
    far = max(1.0, math.hypot(target[0] - position[0], target[1] - position[1]))
    pitch = max(-0.5, min(0.2, math.atan2(rng.uniform(0.3, 1.4) - z, far) + rng.uniform(-0.1, 0.15)))
    cos, sin = math.cos(yaw), math.sin(yaw)
    forward = (cos * math.cos(pitch), sin * math.cos(pitch), math.sin(pitch))
    up = (-cos * math.sin(pitch), -sin * math.sin(pitch), math.cos(pitch))
    return Camera(
        (*position, z), ((sin, -cos, 0.0), up, forward), math.tan(math.radians(rng.uniform(50, 75)) / 2)
    )
