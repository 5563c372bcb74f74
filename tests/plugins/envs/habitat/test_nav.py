"""One navigation environment: habitat's measurements and rewards, and observations from its sensors."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sidetune_plugins.envs.habitat import make
from sidetune_plugins.envs.habitat.spec import EnvSpec

CORRIDOR = "##########\n#........#\n##########\n"
EAST = -90.0
STOP, FORWARD, LEFT, RIGHT = range(4)
ORACLE_FORWARD = 0  # with an oracle stop

Open = Callable[..., Any]


@pytest.fixture
def corridor(write_episodes: Any) -> Open:
    """Opens an environment in which the goal is three metres ahead."""

    def open_env(overrides: dict[str, Any] | None = None, **changes: Any) -> Any:
        given = write_episodes(CORRIDOR, [((3.5, 1.5), (6.5, 1.5), EAST)], **(overrides or {}))
        spec = env_spec(given, **changes)
        make.prepare(spec)
        return make.make(spec, pickle.dumps(make.compose_config(spec)))

    return open_env


def env_spec(given: dict[str, Any], **changes: Any) -> EnvSpec:
    values: dict[str, Any] = {
        "config": given["config"],
        "overrides": tuple(given["overrides"]),
        "imports": ("habitat_rooms",),
        "inputs": ("image", "goal"),
        "mask_images": False,
        "oracle_stop": False,
        "frame_stack": 1,
        "tile": None,
        "map": "visited",
        "map_size": 11,
        "map_metres": 3.3,
    }
    return EnvSpec(**{**values, **changes})


def play(env: Any, *actions: int) -> Any:
    """The result of the last action."""
    env.reset(seed=1)
    for action in actions[:-1]:
        *_, terminated, truncated, _ = env.step(np.int64(action))
        assert not terminated and not truncated  # noqa: PT018 - either is a mistake in the test
    return env.step(np.int64(actions[-1]))


def test_a_straight_path_has_an_spl_of_one(corridor: Open) -> None:
    _, reward, terminated, truncated, info = play(corridor(), *[FORWARD] * 12, STOP)
    assert (terminated, truncated) == (True, False)
    assert info["success"] is True
    assert info["metrics"]["spl"] == pytest.approx(1.0)
    assert info["metrics"]["distance_to_goal"] == pytest.approx(0.0, abs=1e-6)
    assert reward == pytest.approx(2.5 - 0.01)


def test_the_spl_of_a_detour_is_the_ratio_of_the_lengths(corridor: Open) -> None:
    back = [LEFT, LEFT, FORWARD, FORWARD, LEFT, LEFT]
    info = play(corridor(), *back, *[FORWARD] * 14, STOP)[-1]
    assert info["metrics"]["spl"] == pytest.approx(3 / 4)


def test_a_step_into_a_wall_adds_no_length(corridor: Open) -> None:
    aside = [LEFT, FORWARD, FORWARD, FORWARD, RIGHT]  # 0.4 m up to the wall, less the agent's radius
    info = play(corridor(), *aside, *[FORWARD] * 12, RIGHT, FORWARD, FORWARD, STOP)[-1]
    assert info["success"] is True
    assert info["metrics"]["spl"] == pytest.approx(3 / (0.4 + 3 + 0.5))


def test_a_stop_outside_the_success_radius_is_no_success(corridor: Open) -> None:
    info = play(corridor(), *[FORWARD] * 11, STOP)[-1]
    assert info["success"] is False
    assert info["metrics"] == {"distance_to_goal": pytest.approx(0.25, abs=1e-5), "spl": 0.0}


def test_the_reward_is_the_decrease_of_the_distance_minus_a_hundredth(corridor: Open) -> None:
    env = corridor()
    assert play(env, FORWARD)[1] == pytest.approx(0.25 - 0.01, abs=1e-5)
    assert play(env, LEFT)[1] == pytest.approx(-0.01)
    assert play(env, LEFT, LEFT, FORWARD)[1] == pytest.approx(-0.25 - 0.01, abs=1e-5)


def test_the_original_s_reward_of_ten_is_an_override_of_the_config(corridor: Open) -> None:
    env = corridor({"habitat.task.success_reward": 10})
    assert play(env, *[FORWARD] * 12, STOP)[1] == pytest.approx(10 - 0.01)


def test_the_oracle_stops_in_the_step_that_enters_the_success_radius(corridor: Open) -> None:
    env = corridor(oracle_stop=True)
    assert env.action_space.n == 3
    _, reward, terminated, _, info = play(env, *[ORACLE_FORWARD] * 12)
    assert terminated
    assert info["metrics"]["spl"] == pytest.approx(1.0)
    assert reward == pytest.approx(0.25 - 0.01 + 2.5 - 0.01, abs=1e-5)


def test_a_step_limit_truncates_and_does_not_terminate(corridor: Open) -> None:
    _, _, terminated, truncated, info = play(
        corridor({"habitat.environment.max_episode_steps": 3}), *[FORWARD] * 3
    )
    assert (terminated, truncated) == (False, True)
    assert info["success"] is False


def test_a_success_in_the_last_step_terminates_and_does_not_truncate(corridor: Open) -> None:
    changes: dict[str, Any] = {
        "habitat.environment.max_episode_steps": 1,
        "habitat.task.end_on_success": True,
    }
    changes["habitat.task.success_measure"] = "distance_to_goal"  # any number but 0 is a success
    _, _, terminated, truncated, _ = play(corridor(changes), FORWARD)
    assert (terminated, truncated) == (True, False)


@pytest.mark.parametrize("form", ["POLAR", "CARTESIAN"])
def test_the_goal_is_cosine_and_sine_of_the_angle_to_the_left_and_the_distance(
    corridor: Open, form: str
) -> None:
    env = corridor({"habitat.task.lab_sensors.pointgoal_with_gps_compass_sensor.goal_format": form})
    first, _ = env.reset(seed=1)
    np.testing.assert_allclose(first["goal"], [1, 0, 3], atol=1e-6)
    np.testing.assert_allclose(play(env, LEFT)[0]["goal"], [0, -1, 3], atol=1e-6)  # to the right
    np.testing.assert_allclose(play(env, FORWARD, RIGHT)[0]["goal"], [0, 1, 2.75], atol=1e-6)


def test_the_goal_can_be_constant_planes(corridor: Open) -> None:
    first, _ = corridor(tile=4).reset(seed=1)
    assert first["goal"].shape == (3, 4, 4)
    np.testing.assert_allclose(first["goal"].mean((1, 2)), [1, 0, 3], atol=1e-6)
    assert first["goal"].std((1, 2)).max() == 0


def test_images_are_bytes_with_channels_first_and_depth_follows_the_config(corridor: Open) -> None:
    env = corridor(inputs=("image", "depth", "goal"))
    first, _ = env.reset(seed=1)
    assert (first["image"].dtype, first["image"].shape) == (np.uint8, (3, 16, 16))
    assert first["depth"].shape == (1, 16, 16)
    ahead = 9 - 3.5  # metres to the end of the corridor, of the sensor's range of 10
    np.testing.assert_allclose(first["depth"][0, 7:9, 7:9], ahead / 10, atol=1e-6)
    assert env.observation_space.contains(first)


def test_masked_images_are_zero_and_the_goal_is_kept(corridor: Open) -> None:
    first, _ = corridor(inputs=("image", "depth", "goal"), mask_images=True).reset(seed=1)
    assert first["image"].max() == first["depth"].max() == 0
    assert first["goal"][2] == pytest.approx(3)


def test_a_stack_has_the_oldest_first_and_is_zero_before_the_episode(corridor: Open) -> None:
    env = corridor(inputs=("goal",), frame_stack=4)
    first, _ = env.reset(seed=1)
    np.testing.assert_allclose(first["goal"][:, 2], [0, 0, 0, 3], atol=1e-6)
    np.testing.assert_allclose(play(env, FORWARD, FORWARD)[0]["goal"][:, 2], [0, 3, 2.75, 2.5], atol=1e-6)
    second, _ = env.reset()
    np.testing.assert_allclose(second["goal"][:, 2], [0, 0, 0, 3], atol=1e-6)


def test_the_map_shows_visited_cells_and_the_goal_around_the_agent(corridor: Open) -> None:
    image = play(corridor(inputs=("map", "goal"), map_metres=11.0), *[FORWARD] * 8)[0][
        "map"
    ]  # cells of a metre, the agent in (5, 5)
    assert np.argwhere(image[1] == 255).tolist() == [[4, 5]]  # a metre ahead
    assert np.argwhere(image[0] == 255).tolist() == [[5, 5], [6, 5], [7, 5]]
    assert (image[2] == 128).all()


def test_the_map_of_depth_shows_the_walls_on_both_sides_and_the_floor_ahead(corridor: Open) -> None:
    env = corridor(inputs=("map", "depth"), map="depth", map_metres=11 * 0.27)
    image = env.reset(seed=1)[0]["map"][2]
    assert {column for _, column in np.argwhere(image == 255).tolist()} == {
        3,
        7,
    }  # cells of 0.27 m: half a metre to both sides of 5
    floor = np.argwhere(image == 0)
    assert set(floor[:, 1].tolist()) <= {3, 4, 5, 6, 7}
    assert (5 - floor[:, 0]).min() * 0.27 == pytest.approx(
        1.25, abs=0.27
    )  # the camera is 1.25 m high and sees 45 degrees down


def test_the_map_has_no_walls_if_images_are_masked(corridor: Open) -> None:
    image = corridor(inputs=("map", "depth"), map="depth", mask_images=True).reset(seed=1)[0]["map"]
    assert (image[2] == 128).all()


def test_other_measurements_of_the_config_are_metrics(corridor: Open) -> None:
    overrides = {"+habitat/task/measurements@habitat.task.measurements.collisions": "collisions"}
    info = play(corridor(overrides), LEFT, FORWARD, FORWARD, STOP)[-1]
    assert info["metrics"]["collisions.count"] == 1.0


def test_the_map_does_not_depend_on_the_range_of_the_depth_sensor(corridor: Open) -> None:
    sensor = "habitat.simulator.agents.main_agent.sim_sensors.depth_sensor"
    maps = []
    for changes in (
        {},
        {"normalize_depth": False},
        {"min_depth": 0.4},
        {"min_depth": 0.4, "normalize_depth": False},
    ):
        overrides = {f"{sensor}.{name}": value for name, value in changes.items()}
        env = corridor(overrides, inputs=("map", "depth"), map="depth", map_metres=11 * 0.27)
        maps.append(env.reset(seed=1)[0]["map"])
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])


def test_unknown_inputs_are_an_error(corridor: Open) -> None:
    with pytest.raises(
        ValueError, match="there is no input sound .*; the config's sensors provide depth, goal, image, map"
    ):
        corridor(inputs=("sound",))
