"""The map of env habitat, which can be tested without habitat."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sidetune_plugins.envs.habitat.map import Camera, EgocentricMap, Pose

NORTH, EAST = np.array([0.0, -1.0]), np.array([1.0, 0.0])
POSITION = np.array([0.5, 0.5])


def test_right_is_a_quarter_turn_from_forward() -> None:
    assert Pose(POSITION, NORTH).right.tolist() == [1.0, 0.0]
    assert Pose(POSITION, EAST).right.tolist() == [0.0, 1.0]


def test_the_agent_is_in_the_centre_and_visited_cells_turn_with_it() -> None:
    egocentric = EgocentricMap(5, 5.0)
    for step in range(3):
        egocentric.move(Pose(POSITION + step * EAST, EAST))
    last = POSITION + 2 * EAST
    assert where(egocentric.draw(Pose(last, EAST), 9, 0)[0]) == [(2, 2), (3, 2), (4, 2)]
    assert where(egocentric.draw(Pose(last, NORTH), 9, 0)[0]) == [(2, 0), (2, 1), (2, 2)]
    egocentric.clear()
    assert where(egocentric.draw(Pose(last, NORTH), 9, 0)[0]) == []


@pytest.mark.parametrize(
    ("distance", "angle", "cell"),
    [(2.0, 0.0, [(0, 2)]), (1.0, math.pi / 2, [(2, 1)]), (2.0, -math.pi / 2, [(2, 4)])],
)
def test_ahead_is_up_and_angles_are_positive_to_the_left(
    distance: float, angle: float, cell: list[tuple[int, int]]
) -> None:
    assert where(EgocentricMap(5, 5.0).draw(Pose(POSITION, EAST), distance, angle)[1]) == cell


def test_a_goal_outside_the_map_is_not_drawn() -> None:
    assert where(EgocentricMap(5, 5.0).draw(Pose(POSITION, EAST), 3.0, 0.0)[1]) == []


def test_a_goal_outside_the_map_is_clipped_to_its_edge_on_request() -> None:
    egocentric = EgocentricMap(5, 5.0, clip_goal=True)
    assert where(egocentric.draw(Pose(POSITION, EAST), 13.0, 0.0)[1]) == [(0, 2)]
    assert where(egocentric.draw(Pose(POSITION, EAST), 20.0, 3 * math.pi / 4)[1]) == [(4, 0)]


def test_pooling_widens_the_trail_and_the_goal_to_three_cells() -> None:
    egocentric = EgocentricMap(7, 7.0, pool=3)
    for step in range(2):
        egocentric.move(Pose(POSITION + step * EAST, EAST))
    image = egocentric.draw(Pose(POSITION + EAST, EAST), 3.0, 0.0)
    assert where(image[0]) == [(row, column) for row in range(2, 6) for column in (2, 3, 4)]
    assert where(image[1]) == [(row, column) for row in (0, 1) for column in (2, 3, 4)]
    with pytest.raises(ValueError, match="--env.map-pool 2 is even"):
        EgocentricMap(7, 7.0, pool=2)


def test_depth_is_unprojected_through_a_pinhole() -> None:
    depth = np.zeros((4, 4))
    depth[0, 3] = depth[3, 0] = 2.0  # focal length 2 pixels at 90 degrees; these are 1.5 pixels off the axis
    right, ahead, up = Camera(1.0, 90.0).points(depth)
    np.testing.assert_allclose(right, [1.5, -1.5])
    np.testing.assert_allclose(ahead, [2.0, 2.0])
    np.testing.assert_allclose(up, [2.5, -0.5])


def test_low_points_are_floor_and_points_up_to_the_agent_s_height_are_lasting_obstacles() -> None:
    egocentric, pose = EgocentricMap(5, 5.0), Pose(POSITION, NORTH)
    points = np.array([-1.0, 0.0, 1.0, 2.0]), np.full(4, 2.0), np.array([0.1, 1.0, 3.0, -1.0])
    egocentric.look(pose, points, step=0.2, top=1.5)
    assert egocentric.draw(pose, 9, 0)[2, 0].tolist() == [128, 0, 255, 128, 128]
    egocentric.look(pose, (np.zeros(1), np.full(1, 2.0), np.zeros(1)), step=0.2, top=1.5)
    assert egocentric.draw(pose, 9, 0)[2, 0, 2] == 255


def where(plane: np.ndarray) -> list[tuple[int, int]]:
    """Marked cells (row, column)."""
    return [(int(row), int(column)) for row, column in np.argwhere(plane == 255)]
