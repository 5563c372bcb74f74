"""Scene builder: pieces of furniture from solids, each in its local coordinate frame.

In the frame of a piece, x runs along its back from -width/2 to width/2, y from its back at 0 to its front at
depth, and z up from the floor. Lengths are in metres.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import attrs

from ..dense.task import SEMANTIC
from .solids import BOX, ELLIPSOID, FRUSTUM, OBJECTS, Material, Orientation, Solid, solid_axes


@attrs.frozen
class Frame:
    """A local coordinate frame in the room: its origin and its rotation about z."""

    x: float
    y: float
    z: float
    yaw: float

    def point(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """A point of this frame in room coordinates."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return self.x + cos * x - sin * y, self.y + sin * x + cos * y, self.z + z

    def child(self, x: float, y: float, turn: float) -> Frame:
        """A frame with its origin at (x, y, 0) of this one, rotated by `turn`."""
        return Frame(*self.point(x, y, 0.0), self.yaw + turn)


class SceneBuilder:
    """Adds solids to a scene, in the current frame and with the current labels."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.solids: list[Solid] = []
        self.materials: list[Material] = []
        self.frame = Frame(0.0, 0.0, 0.0, 0.0)
        self._semantic, self._object = 1, -1

    def set_frame(self, frame: Frame) -> None:
        """Make this the current frame, and reset the labels."""
        self.frame = frame
        self.set_labels()

    def set_labels(self, semantic: str = "background", name: str = "") -> None:
        """Make these the current labels: a class of `SEMANTIC` and, if any, a class of `OBJECTS`."""
        self._semantic, self._object = SEMANTIC.index(semantic), OBJECTS.get(name, -1)

    def add_material(self, material: Material) -> int:
        """Register a material; returns its index."""
        self.materials.append(material)
        return len(self.materials) - 1

    def box(
        self, x: float, y: float, z: float, w: float, d: float, h: float, material: int, turn: float = 0.0
    ) -> None:
        """A box of w x d x h; (x, y, z) is the centre of its bottom face."""
        self._add(BOX, (x, y, z + h / 2), (w / 2, d / 2, h / 2), material, turn=turn)

    def ellipsoid(
        self, x: float, y: float, z: float, a: float, b: float, c: float, material: int, clip: float = 2.0
    ) -> None:
        """An ellipsoid with centre (x, y, z) and semi-axes a, b, c; cut off above ``clip * c``."""
        self._add(ELLIPSOID, (x, y, z), (a, b, c), material, clip=clip)

    def frustum(self, x: float, y: float, z: float, low: float, high: float, h: float, material: int) -> None:
        """An upright frustum standing on (x, y, z), with radius `low` at the bottom and `high` at the top."""
        self._add(FRUSTUM, (x, y, z + h / 2), (low, high, h / 2), material)

    def cylinder(
        self,
        x: float,
        y: float,
        z: float,
        r: float,
        length: float,
        material: int,
        orientation: Orientation = "along x",
    ) -> None:
        """A cylinder with centre (x, y, z), by default lying along x."""
        self._add(FRUSTUM, (x, y, z), (r, r, length / 2), material, orientation=orientation)

    def _add(
        self,
        kind: int,
        centre: tuple[float, float, float],
        size: tuple[float, float, float],
        material: int,
        clip: float = 2.0,
        turn: float = 0.0,
        orientation: Orientation = "upright",
    ) -> None:
        axes = solid_axes(self.frame.yaw + turn, orientation)
        self.solids.append(
            Solid(kind, self.frame.point(*centre), axes, size, clip, material, self._semantic, self._object)
        )


@attrs.frozen
class Piece:
    """A piece of furniture: its footprint, and the function that builds it."""

    width: float
    depth: float
    build: Callable[[SceneBuilder], None]
    height: float = 0.0
    """Height above the floor of wall-mounted pieces."""


PieceFactory = Callable[[random.Random], Piece]
