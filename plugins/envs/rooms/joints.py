"""Joining solids to pieces of furniture, each in a frame of its own.

In the frame of a piece x goes along its back from -width/2 to width/2, y from its back at 0 to its front at depth, z up from the floor;
metres.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import attrs

from .solids import BOX, ELLIPSOID, FRUSTUM, OBJECTS, SEMANTIC, Lie, Material, Solid, axes_of


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

    def box(
        self, x: float, y: float, z: float, w: float, d: float, h: float, material: int, turn: float = 0.0
    ) -> None:
        """A box of w x d x h whose bottom's middle is (x, y, z)."""
        self._put(BOX, (x, y, z + h / 2), (w / 2, d / 2, h / 2), material, turn=turn)

    def ball(
        self, x: float, y: float, z: float, a: float, b: float, c: float, material: int, clip: float = 2.0
    ) -> None:
        """An ellipsoid with centre (x, y, z) and semi-axes; below ``clip * c`` only, if `clip` is less than 1."""
        self._put(ELLIPSOID, (x, y, z), (a, b, c), material, clip=clip)

    def tube(self, x: float, y: float, z: float, low: float, high: float, h: float, material: int) -> None:
        """An upright frustum on (x, y, z): radius `low` at the bottom, `high` at the top."""
        self._put(FRUSTUM, (x, y, z + h / 2), (low, high, h / 2), material)

    def roll(
        self, x: float, y: float, z: float, r: float, length: float, material: int, lie: Lie = "along x"
    ) -> None:
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
        self.solids.append(
            Solid(kind, self.frame.point(*centre), axes, size, clip, material, self._semantic, self._object)
        )


@attrs.frozen
class Piece:
    """A piece of furniture: the floor that it takes, and how it is made."""

    width: float
    depth: float
    make: Callable[[Joiner], None]
    height: float = 0.0
    """Above the floor where it hangs on a wall."""


Maker = Callable[[random.Random], Piece]
