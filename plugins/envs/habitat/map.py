"""An egocentric map of an agent's surroundings, seen from above."""

from __future__ import annotations

import math

import attrs
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Cells = NDArray[np.int64]

UNKNOWN, FREE, FULL = 128, 0, 255
VISITED, GOAL, OBSTACLE = range(3)


@attrs.frozen
class Pose:
    """Position of an agent on the floor, in metres, and its heading."""

    position: Floats
    """(2,): x and z in world coordinates, with y upwards."""
    forward: Floats
    """(2,), a unit vector."""

    @property
    def right(self) -> Floats:
        """(2,), a unit vector."""
        return np.array([-self.forward[1], self.forward[0]])

    def world(self, right: Floats, forward: Floats) -> Floats:
        """World coordinates (N, 2) of points to the right and ahead of the agent, (N,) each, in metres."""
        return self.position + right[:, None] * self.right + forward[:, None] * self.forward


@attrs.frozen
class Camera:
    """A pinhole camera with a horizontal optical axis."""

    height: float
    """Above the floor, in metres."""
    fov: float
    """Horizontal field of view, in degrees."""

    def points(self, depth: Floats) -> tuple[Floats, Floats, Floats]:
        """The points of a depth image (H, W) in metres: right, ahead, and above the floor, (N,) each in
        metres.

        Pixels with depth 0 are invalid.
        """
        rows, columns = np.nonzero(depth)
        ahead = depth[rows, columns]
        focal = depth.shape[1] / 2 / math.tan(math.radians(self.fov) / 2)
        right = (columns + 0.5 - depth.shape[1] / 2) / focal * ahead
        up = self.height - (rows + 0.5 - depth.shape[0] / 2) / focal * ahead
        return right, ahead, up


class EgocentricMap:
    """An agent's map, (3, size, size) bytes, with the agent in the centre, facing up.

    Three planes: visited cells (255), the goal (255), and, if `look` is called, obstacles (255) and free
    floor (0); 128 is unknown. The map of the side-tuning paper has the first two planes, pooled over 3 x 3
    cells, with the goal clipped to the edge.

    Args:
        size: side in cells.
        metres: side in metres.
        pool: side of the window whose largest value each cell has, odd.
        clip_goal: draw a goal beyond the map at its edge.

    Raises:
        ValueError: `pool` is even.
    """

    def __init__(self, size: int, metres: float, pool: int = 1, clip_goal: bool = False) -> None:
        if pool % 2 == 0:
            raise ValueError(
                f"--env.map-pool {pool} is even; a window around a cell has an odd side, such as 3"
            )
        self._pool, self._clip_goal = pool, clip_goal
        self._cell = metres / size
        offsets = (np.arange(size) + 0.5 - size / 2) * self._cell
        self._right, self._ahead = np.tile(offsets, size), np.repeat(-offsets, size)
        self._size = size
        self.clear()

    def clear(self) -> None:
        """Forget everything, for a new episode."""
        self._visited, self._free, self._obstacles = (np.zeros(0, np.int64) for _ in range(3))

    def move(self, pose: Pose) -> None:
        """Mark the agent's cell as visited."""
        self._visited = np.union1d(self._visited, self._cells(pose.position[None]))

    def look(self, pose: Pose, points: tuple[Floats, Floats, Floats], step: float, top: float) -> None:
        """Add visible points.

        Args:
            pose: of the agent.
            points: see `Camera.points`.
            step: greatest height of floor, in metres.
            top: height of the agent in metres; higher points are no obstacles.
        """
        right, ahead, up = points
        cells = self._cells(pose.world(right, ahead))
        self._free = np.union1d(self._free, cells[np.abs(up) <= step])
        self._obstacles = np.union1d(self._obstacles, cells[(up > step) & (up <= top)])

    def draw(self, pose: Pose, distance: float, angle: float) -> NDArray[np.uint8]:
        """The map (3, size, size), with the goal at `distance` metres and `angle` radians to the left."""
        cells = self._cells(pose.world(self._right, self._ahead))
        planes = np.full((3, len(cells)), UNKNOWN, np.uint8)
        planes[VISITED][np.isin(cells, self._visited)] = FULL
        planes[OBSTACLE][np.isin(cells, self._free)] = FREE
        planes[OBSTACLE][np.isin(cells, self._obstacles)] = FULL
        image = planes.reshape(3, self._size, self._size)
        row = math.floor(self._size / 2 - distance * math.cos(angle) / self._cell)
        column = math.floor(self._size / 2 - distance * math.sin(angle) / self._cell)
        if self._clip_goal:
            row, column = (min(max(index, 0), self._size - 1) for index in (row, column))
        if 0 <= row < self._size and 0 <= column < self._size:
            image[GOAL, row, column] = FULL
        return image if self._pool == 1 else _max_pooled(image, self._pool)

    def _cells(self, points: Floats) -> Cells:
        """Ids (N,) of the world's cells that contain points (N, 2)."""
        indices = np.floor(points / self._cell).astype(np.int64)
        return indices[:, 0] * 2**32 + indices[:, 1]


def _max_pooled(planes: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The largest value in the window of `side` x `side` cells around each cell of planes (C, H, W); cells
    beyond the edge count for nothing."""
    margin = side // 2
    padded = np.pad(planes, ((0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
    pooled: NDArray[np.uint8] = windows.max((3, 4))
    return pooled
