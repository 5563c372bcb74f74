"""A floor plan with walls: where one can stand, how far it is, and what is seen. Metres; x to the east, z to the south, y upwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import shortest_path

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

CEILING = 2.5
TOUCH = 1e-6
"""As near to a wall as this counts as touching it."""
COLOURS = np.array(
    [
        (200, 80, 70),
        (80, 160, 90),
        (70, 110, 190),
        (220, 180, 70),
        (150, 90, 170),
        (90, 180, 190),
        (230, 140, 170),
        (150, 120, 90),
    ],
    float,
)
FLOOR, ABOVE = np.array([90.0, 85.0, 80.0]), np.array([225.0, 225.0, 220.0])


class World:
    """Rooms on a grid of squares of 1 m, ``#`` for walls up to the ceiling: square (row, column) reaches from z = row and x = column on.

    The agent is a square of half width `radius`, which keeps its distances simple: it stands where no wall, grown by that on all
    sides, is, and its shortest path is a chain of straight lines between corners of the grown walls (Lozano-Pérez & Wesley 1979).

    Args:
        plan: rows of one length, all of whose rims are walls.
        radius: in metres, less than 0.5.
    """

    def __init__(self, plan: Sequence[str], radius: float) -> None:
        self.plan = plan
        rows, columns = np.nonzero(np.array([[mark == "#" for mark in row] for row in plan]))
        self._low, self._high = (
            np.stack([columns, rows], 1).astype(float),
            np.stack([columns + 1, rows + 1], 1).astype(float),
        )
        self._colours = COLOURS[(3 * rows + 5 * columns + rows * columns) % len(COLOURS)]
        self._grown = self._low - radius, self._high + radius
        corners = np.concatenate(
            [np.where([east, south], self._grown[1], self._grown[0]) for east in (0, 1) for south in (0, 1)]
        )
        self._corners = np.array(
            [corner for corner in np.unique(corners, axis=0) if self._is_rounded(corner)]
        ).reshape(-1, 2)
        apart = np.linalg.norm(self._corners[:, None] - self._corners, axis=2)
        seen = np.array([self._seen(corner, self._corners) for corner in self._corners], bool).reshape(
            apart.shape
        )
        self._between = shortest_path(np.where(seen, apart, 0), directed=False) if len(apart) else apart

    @classmethod
    def read(cls, path: Path | str, radius: float) -> World:
        """A plan in a text file."""
        return cls(Path(path).read_text().split(), radius)

    def is_free(self, point: Floats) -> bool:
        """Whether the agent can stand at (x, z)."""
        low, high = self._grown
        return not bool(((point > low + TOUCH) & (point < high - TOUCH)).all(1).any())

    def distance(self, start: Floats, goal: Floats) -> float:
        """Length of the shortest path between points (x, z) where the agent can stand; infinite if there is none."""
        if self._seen(start, goal[None])[0]:
            return float(np.linalg.norm(goal - start))
        first, last = (
            (np.linalg.norm(self._corners - point, axis=1), self._seen(point, self._corners))
            for point in (start, goal)
        )
        whole = (
            np.where(first[1], first[0], np.inf)[:, None] + self._between + np.where(last[1], last[0], np.inf)
        )
        return float(whole.min(initial=np.inf))

    def move(self, start: Floats, step: Floats) -> Floats:
        """Where the agent comes to by a step (x, z): as far as it can, then along the wall."""
        place = start
        for _ in range(2):
            share, axis = self._reach(place, step)
            place = place + share * step
            if share == 1 or axis is None:
                break
            step = (1 - share) * np.where(np.arange(2) == axis, 0.0, step)
        return place

    def see(
        self, eye: Floats, height: float, heading: float, size: tuple[int, int], view: float
    ) -> tuple[Bytes, Floats]:
        """A picture (H, W, 3) and the depths of its pixels (H, W) in metres, along the optical axis.

        Args:
            eye: (x, z).
            height: of the eye above the floor.
            heading: in radians to the left of north, which is where z falls.
            size: (H, W).
            view: horizontal angle of view in degrees.
        """
        rows, columns = size
        focal = columns / 2 / math.tan(math.radians(view) / 2)
        ahead, right = (
            np.array([-math.sin(heading), -math.cos(heading)]),
            np.array([math.cos(heading), -math.sin(heading)]),
        )
        rays = ahead + ((np.arange(columns) + 0.5 - columns / 2) / focal)[:, None] * right
        walls, sides, colours = self._hits(eye, rays)
        fall = (np.arange(rows) + 0.5 - rows / 2)[:, None] / focal
        level = np.where(fall > 0, height, CEILING - height) / np.maximum(np.abs(fall), TOUCH)
        depth = np.minimum(walls, level)
        shade = 1 / (1 + 0.12 * depth[:, :, None])
        flat = np.where(fall[:, :, None] > 0, FLOOR, ABOVE)
        picture = (
            np.where((walls <= level)[:, :, None], colours * np.where(sides, 1.0, 0.8)[:, None], flat) * shade
        )
        return np.round(picture).astype(np.uint8), depth

    def _hits(self, eye: Floats, rays: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
        """For rays (W, 2): parameter of the first wall, whether it is met on an east or west side, and its colour."""
        enter, leave, axis = _crossings(eye, rays[:, None], self._low, self._high)
        enter = np.where((enter < leave) & (enter > 0), enter, np.inf)
        nearest = enter.argmin(1)
        every = np.arange(len(rays))
        return enter[every, nearest], axis[every, nearest] == 0, self._colours[nearest]

    def _is_rounded(self, corner: Floats) -> bool:
        """Whether shortest paths can turn here: a wall lies in one of the four directions between the axes, and in no other."""
        around = corner + 10 * TOUCH * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
        return sum(not self.is_free(point) for point in around) == 1

    def _seen(self, point: Floats, others: Floats) -> NDArray[np.bool_]:
        """Whether the straight way from (x, z) to others (N, 2) is free, (N,)."""
        enter, leave, _ = _crossings(
            point, (others - point)[:, None], self._grown[0] + TOUCH, self._grown[1] - TOUCH
        )
        return ~((enter < leave) & (enter < 1) & (leave > 0)).any(1)

    def _reach(self, place: Floats, step: Floats) -> tuple[float, int | None]:
        """The share of a step up to the first wall, and across which axis that wall stands."""
        low, high = self._grown
        enter, leave, axis = _crossings(place, step[None, None], low + TOUCH, high - TOUCH)
        enter = np.where((enter < leave) & (enter < 1) & (leave > 0), enter, np.inf)[0]
        first = int(enter.argmin())
        if enter[first] == np.inf:
            return 1.0, None
        across = int(axis[0, first])
        wall = (low if step[across] > 0 else high)[first, across]
        return float(np.clip((wall - place[across]) / step[across], 0, 1)), across


def _crossings(
    start: Floats, rays: Floats, low: Floats, high: Floats
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Where rays (R, 1, 2) enter and leave boxes (N, 2), as multiples of the ray, and across which axis they enter; (R, N) each."""
    rays = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    one, other = (low - start) / rays, (high - start) / rays
    near, far = np.minimum(one, other), np.maximum(one, other)
    return near.max(2), far.min(2), near.argmax(2)
