"""A floor plan with walls: collisions, shortest paths and ray casting.

Metres; x to the east, z to the south, y upwards.
"""

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
TOLERANCE = 1e-6
"""Metres; a closer wall is touched."""
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
FLOOR_COLOUR, CEILING_COLOUR = np.array([90.0, 85.0, 80.0]), np.array([225.0, 225.0, 220.0])


class World:
    """Rooms on a grid of 1 m, with ``#`` for walls up to the ceiling; cell (row, column) begins at z = row
    and x = column.

    The agent is a square of half width `radius`. Its free space is outside the walls, dilated by the radius,
    and its shortest path is a polyline through corners of the dilated walls (Lozano-Pérez & Wesley 1979).

    Args:
        plan: rows of equal length; the border cells are walls.
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
        self._dilated = self._low - radius, self._high + radius
        corners = np.concatenate(
            [
                np.where([east, south], self._dilated[1], self._dilated[0])
                for east in (0, 1)
                for south in (0, 1)
            ]
        )
        self._corners = np.array(
            [corner for corner in np.unique(corners, axis=0) if self._is_convex(corner)]
        ).reshape(-1, 2)
        distances = np.linalg.norm(self._corners[:, None] - self._corners, axis=2)
        visible = np.array([self._visible(corner, self._corners) for corner in self._corners], bool).reshape(
            distances.shape
        )
        self._corner_distances = (
            shortest_path(np.where(visible, distances, 0), directed=False) if len(distances) else distances
        )

    @classmethod
    def read(cls, path: Path | str, radius: float) -> World:
        """Read a plan from a text file."""
        return cls(Path(path).read_text().split(), radius)

    def is_free(self, point: Floats) -> bool:
        """Whether the agent can stand at (x, z)."""
        low, high = self._dilated
        return not bool(((point > low + TOLERANCE) & (point < high - TOLERANCE)).all(1).any())

    def distance(self, start: Floats, goal: Floats) -> float:
        """Length of the shortest path between free points (x, z); infinite if there is none."""
        if self._visible(start, goal[None])[0]:
            return float(np.linalg.norm(goal - start))
        first, last = (
            (np.linalg.norm(self._corners - point, axis=1), self._visible(point, self._corners))
            for point in (start, goal)
        )
        to_first = np.where(first[1], first[0], np.inf)[:, None]
        lengths = to_first + self._corner_distances + np.where(last[1], last[0], np.inf)
        return float(lengths.min(initial=np.inf))

    def move(self, start: Floats, step: Floats) -> Floats:
        """Position after a step (x, z): up to the first wall, then sliding along it."""
        position = start
        for _ in range(2):
            fraction, axis = self._free_fraction(position, step)
            position = position + fraction * step
            if fraction == 1 or axis is None:
                break
            step = (1 - fraction) * np.where(np.arange(2) == axis, 0.0, step)
        return position

    def render(
        self, eye: Floats, height: float, heading: float, size: tuple[int, int], fov: float
    ) -> tuple[Bytes, Floats]:
        """An image (H, W, 3) and its depths (H, W) in metres, along the optical axis.

        Args:
            eye: (x, z).
            height: of the eye above the floor.
            heading: in radians to the left of north, the direction of negative z.
            size: (H, W).
            fov: horizontal field of view in degrees.
        """
        rows, columns = size
        focal = columns / 2 / math.tan(math.radians(fov) / 2)
        ahead, right = (
            np.array([-math.sin(heading), -math.cos(heading)]),
            np.array([math.cos(heading), -math.sin(heading)]),
        )
        rays = ahead + ((np.arange(columns) + 0.5 - columns / 2) / focal)[:, None] * right
        walls, sides, colours = self._cast_rays(eye, rays)
        fall = (np.arange(rows) + 0.5 - rows / 2)[:, None] / focal
        level = np.where(fall > 0, height, CEILING - height) / np.maximum(np.abs(fall), TOLERANCE)
        depth = np.minimum(walls, level)
        shade = 1 / (1 + 0.12 * depth[:, :, None])
        flat = np.where(fall[:, :, None] > 0, FLOOR_COLOUR, CEILING_COLOUR)
        wall_colours = colours * np.where(sides, 1.0, 0.8)[:, None]
        image = np.where((walls <= level)[:, :, None], wall_colours, flat) * shade
        return np.round(image).astype(np.uint8), depth

    def _cast_rays(self, eye: Floats, rays: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
        """For rays (W, 2): ray parameter of the first wall, whether its face looks east or west, and its
        colour."""
        enter, leave, axis = _crossings(eye, rays[:, None], self._low, self._high)
        enter = np.where((enter < leave) & (enter > 0), enter, np.inf)
        nearest = enter.argmin(1)
        rows = np.arange(len(rays))
        return enter[rows, nearest], axis[rows, nearest] == 0, self._colours[nearest]

    def _is_convex(self, corner: Floats) -> bool:
        """Whether shortest paths can turn at a corner: exactly one of the four diagonal neighbours is inside
        a wall."""
        around = corner + 10 * TOLERANCE * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
        return sum(not self.is_free(point) for point in around) == 1

    def _visible(self, point: Floats, others: Floats) -> NDArray[np.bool_]:
        """Whether the straight line from (x, z) to each of `others` (N, 2) is free, (N,)."""
        enter, leave, _ = _crossings(
            point, (others - point)[:, None], self._dilated[0] + TOLERANCE, self._dilated[1] - TOLERANCE
        )
        return ~((enter < leave) & (enter < 1) & (leave > 0)).any(1)

    def _free_fraction(self, position: Floats, step: Floats) -> tuple[float, int | None]:
        """The fraction of a step up to the first wall, and the axis of that wall's normal."""
        low, high = self._dilated
        enter, leave, axis = _crossings(position, step[None, None], low + TOLERANCE, high - TOLERANCE)
        enter = np.where((enter < leave) & (enter < 1) & (leave > 0), enter, np.inf)[0]
        first = int(enter.argmin())
        if enter[first] == np.inf:
            return 1.0, None
        normal = int(axis[0, first])
        wall = (low if step[normal] > 0 else high)[first, normal]
        return float(np.clip((wall - position[normal]) / step[normal], 0, 1)), normal


def _crossings(
    start: Floats, rays: Floats, low: Floats, high: Floats
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Ray parameters at which rays (R, 1, 2) enter and leave boxes (N, 2), and the axis of the entered face;
    (R, N) each."""
    rays = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    first, second = (low - start) / rays, (high - start) / rays
    near, far = np.minimum(first, second), np.maximum(first, second)
    return near.max(2), far.min(2), near.argmax(2)
