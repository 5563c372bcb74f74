"""The map of env habitat, which needs no habitat: where cells and points fall."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sidetune_plugins.envs.habitat.map import Camera, EgocentricMap, Pose

NORTH, EAST = np.array([0.0, -1.0]), np.array([1.0, 0.0])
HERE = np.array([0.5, 0.5])


def test_right_is_a_quarter_turn_from_forward() -> None:
    assert Pose(HERE, NORTH).right.tolist() == [1.0, 0.0]
    assert Pose(HERE, EAST).right.tolist() == [0.0, 1.0]


def test_the_agent_is_in_the_middle_and_its_way_turns_with_it() -> None:
    drawing = EgocentricMap(5, 5.0)
    for step in range(3):
        drawing.move(Pose(HERE + step * EAST, EAST))
    last = HERE + 2 * EAST
    assert where(drawing.draw(Pose(last, EAST), 9, 0)[0]) == [(2, 2), (3, 2), (4, 2)]
    assert where(drawing.draw(Pose(last, NORTH), 9, 0)[0]) == [(2, 0), (2, 1), (2, 2)]
    drawing.forget()
    assert where(drawing.draw(Pose(last, NORTH), 9, 0)[0]) == []


@pytest.mark.parametrize(
    ("distance", "angle", "cell"),
    [(2.0, 0.0, [(0, 2)]), (1.0, math.pi / 2, [(2, 1)]), (2.0, -math.pi / 2, [(2, 4)])],
)
def test_the_goal_is_ahead_upwards_and_angles_go_to_the_left(
    distance: float, angle: float, cell: list[tuple[int, int]]
) -> None:
    assert where(EgocentricMap(5, 5.0).draw(Pose(HERE, EAST), distance, angle)[1]) == cell


def test_a_goal_beyond_the_rim_is_not_drawn() -> None:
    assert where(EgocentricMap(5, 5.0).draw(Pose(HERE, EAST), 3.0, 0.0)[1]) == []


def test_a_pixel_of_depth_is_a_point_of_the_pinhole() -> None:
    depth = np.zeros((4, 4))
    depth[0, 3] = depth[3, 0] = 2.0  # focal length 2 pixels at 90 degrees; these are 1.5 pixels off the axis
    right, ahead, up = Camera(1.0, 90.0).points(depth)
    np.testing.assert_allclose(right, [1.5, -1.5])
    np.testing.assert_allclose(ahead, [2.0, 2.0])
    np.testing.assert_allclose(up, [2.5, -0.5])


def test_low_points_are_floor_high_ones_nothing_and_those_between_obstacles_for_good() -> None:
    drawing, pose = EgocentricMap(5, 5.0), Pose(HERE, NORTH)
    points = np.array([-1.0, 0.0, 1.0, 2.0]), np.full(4, 2.0), np.array([0.1, 1.0, 3.0, -1.0])
    drawing.look(pose, points, step=0.2, top=1.5)
    assert drawing.draw(pose, 9, 0)[2, 0].tolist() == [128, 0, 255, 128, 128]
    drawing.look(pose, (np.zeros(1), np.full(1, 2.0), np.zeros(1)), step=0.2, top=1.5)
    assert drawing.draw(pose, 9, 0)[2, 0, 2] == 255


def where(plane: np.ndarray) -> list[tuple[int, int]]:
    """Cells that are marked."""
    return [(int(row), int(column)) for row, column in np.argwhere(plane == 255)]
