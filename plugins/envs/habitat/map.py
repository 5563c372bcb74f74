"""What an agent that moves on a floor has found out about its surroundings, seen from above."""

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
    """Where an agent is on the floor, in metres, and where it looks."""

    place: Floats
    """(2,): x and z of the world, with y upwards."""
    forward: Floats
    """(2,), of length 1."""

    @property
    def right(self) -> Floats:
        """(2,), of length 1."""
        return np.array([-self.forward[1], self.forward[0]])

    def world(self, right: Floats, forward: Floats) -> Floats:
        """Points (N, 2) that are so many metres to the right and ahead, (N,) each."""
        return self.place + right[:, None] * self.right + forward[:, None] * self.forward


@attrs.frozen
class Camera:
    """A pinhole that looks ahead, horizontally."""

    height: float
    """Above the floor, in metres."""
    view: float
    """Horizontal angle of view, in degrees."""

    def points(self, depth: Floats) -> tuple[Floats, Floats, Floats]:
        """To the right, ahead, and above the floor, (N,) each in metres: what pixels of `depth` (H, W) in metres see; 0 sees nothing."""
        rows, columns = np.nonzero(depth)
        ahead = depth[rows, columns]
        focal = depth.shape[1] / 2 / math.tan(math.radians(self.view) / 2)
        right = (columns + 0.5 - depth.shape[1] / 2) / focal * ahead
        up = self.height - (rows + 0.5 - depth.shape[0] / 2) / focal * ahead
        return right, ahead, up


class EgocentricMap:
    """An agent's map, (3, size, size) bytes: the agent is in the middle and looks upwards.

    Three planes: where it has been (255), where the goal is (255), and, if it is told what it sees, obstacles (255) and free floor (0);
    128 is unknown. The original's map has the first two, and its upper side is where the agent looked at first.

    Args:
        size: cells on a side.
        metres: length of a side.
    """

    def __init__(self, size: int, metres: float) -> None:
        self._cell = metres / size
        offsets = (np.arange(size) + 0.5 - size / 2) * self._cell
        self._right, self._ahead = np.tile(offsets, size), np.repeat(-offsets, size)
        self._size = size
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._visited, self._free, self._obstacles = (np.zeros(0, np.int64) for _ in range(3))

    def move(self, pose: Pose) -> None:
        """The agent is here now."""
        self._visited = np.union1d(self._visited, self._cells(pose.place[None]))

    def look(self, pose: Pose, points: tuple[Floats, Floats, Floats], step: float, top: float) -> None:
        """Take in what is seen.

        Args:
            pose: from where.
            points: see `Camera.points`.
            step: what is at most so high, in metres, is floor.
            top: what is higher is nothing that the agent could run into.
        """
        right, ahead, up = points
        cells = self._cells(pose.world(right, ahead))
        self._free = np.union1d(self._free, cells[np.abs(up) <= step])
        self._obstacles = np.union1d(self._obstacles, cells[(up > step) & (up <= top)])

    def draw(self, pose: Pose, distance: float, angle: float) -> NDArray[np.uint8]:
        """The map (3, size, size), with a goal so many metres away, at that angle (radians to the left), if it is within."""
        cells = self._cells(pose.world(self._right, self._ahead))
        planes = np.full((3, len(cells)), UNKNOWN, np.uint8)
        planes[VISITED][np.isin(cells, self._visited)] = FULL
        planes[OBSTACLE][np.isin(cells, self._free)] = FREE
        planes[OBSTACLE][np.isin(cells, self._obstacles)] = FULL
        drawn = planes.reshape(3, self._size, self._size)
        row = math.floor(self._size / 2 - distance * math.cos(angle) / self._cell)
        column = math.floor(self._size / 2 - distance * math.sin(angle) / self._cell)
        if 0 <= row < self._size and 0 <= column < self._size:
            drawn[GOAL, row, column] = FULL
        return drawn

    def _cells(self, points: Floats) -> Cells:
        """Numbers of the cells of the world that points (N, 2) are in."""
        places = np.floor(points / self._cell).astype(np.int64)
        return places[:, 0] * 2**32 + places[:, 1]
