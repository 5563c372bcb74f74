"""A navigation task of habitat-lab as a Gymnasium environment. It is imported where habitat runs, in processes of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from habitat.config import read_write
from habitat.config.default import get_agent_config
from habitat.core.environments import RLTaskEnv
from habitat.core.spaces import EmptySpace
from habitat.sims.habitat_simulator.actions import HabitatSimActions
from habitat.tasks.nav.nav import PointGoalSensor
from habitat.utils.geometry_utils import quaternion_rotate_vector
from numpy.typing import NDArray

from .map import Camera, EgocentricMap, Pose
from .recipe import GOAL, IMAGE, MAP, EnvSpec

Observation = dict[str, NDArray[Any]]
STOP, DEPTH = "stop", "depth"
FOLLOWED = {"stop": STOP, "forward": "move_forward", "left": "turn_left", "right": "turn_right"}
"""Actions of a follower of shortest paths."""


class Nav(gymnasium.Env[Any, Any]):
    """Habitat's ``RLTaskEnv``: its observations as a table, its actions by number, and its measures in ``info`` where an episode ends.

    Images are (C, H, W), and ``rgb`` is called ``image``. ``goal`` is the cosine and the sine of the angle to the goal, to the left, and
    its distance in metres: (3,), or (3, tile, tile) with the same numbers everywhere.

    Raises:
        ValueError: the config has not what the recipe asks for, or an action takes arguments.
    """

    metadata: dict[str, Any] = {}

    def __init__(self, env: RLTaskEnv, recipe: EnvSpec) -> None:
        self._env, self._inner, self._recipe = env, env.habitat_env, recipe
        self._task, self._episodes = env.config.task, list(env.episodes)
        if taking := [
            name for name, space in env.action_space.spaces.items() if not isinstance(space, EmptySpace)
        ]:
            raise ValueError(
                f"action {', '.join(taking)} takes arguments; only actions that take none are known"
            )
        success = self._task.measurements.get("success")
        if recipe.oracle_stop and success is None:
            raise ValueError(
                "--env.oracle-stop needs habitat's measure 'success' in the config, which says how near is near enough"
            )
        self._near = float(success.success_distance) if success is not None else 0.0
        self._actions = [name for name in self._task.actions if not (recipe.oracle_stop and name == STOP)]
        self.action_space = spaces.Discrete(len(self._actions))
        goal = self._inner.task.sensor_suite.sensors.get(self._task.get("goal_sensor_uuid"))
        names = {"rgb": IMAGE, **({goal.uuid: GOAL} if isinstance(goal, PointGoalSensor) else {})}
        there = {names.get(uuid, uuid): uuid for uuid in env.observation_space.spaces}
        known = [*there, *([MAP] if GOAL in there else [])]
        if unknown := [name for name in recipe.inputs if name not in known]:
            raise ValueError(
                f"there is no input {', '.join(unknown)} (--env.inputs); the config's sensors give {', '.join(known)}"
            )
        self._uuids = {name: there[name] for name in recipe.inputs if name != MAP}
        if {GOAL, MAP} & set(recipe.inputs):
            self._goal, self._polar = there[GOAL], _is_polar(goal.config)
        self._map = EgocentricMap(recipe.map_size, recipe.map_metres) if MAP in recipe.inputs else None
        self._eye = (
            self._depth_camera()
            if self._map is not None and recipe.map == "depth" and not recipe.blind
            else None
        )
        self._follower: Any = None
        self.observation_space = spaces.Dict(
            {name: self._space(name, env.observation_space.spaces) for name in recipe.inputs}
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the next episode; with a seed, habitat's iterator over the episodes begins anew.

        ``habitat.Env.seed`` would do the same and compile a function to seed Numba, which nothing draws from.
        """
        super().reset(seed=seed)
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
            self._inner.sim.seed(seed)
            self._inner.task.seed(seed)
            with read_write(self._env.config):
                self._env.config.seed = seed
            self._env.episodes = list(self._episodes)
        self._follower = None
        if self._map is not None:
            self._map.forget()
        return self._read(self._env.reset()), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take an action; where the oracle stops, a stop follows in the same step as soon as the goal is near enough."""
        observations, reward, done, measures = self._env.step(action=self._actions[int(action)])
        if self._recipe.oracle_stop and not done and measures["distance_to_goal"] < self._near:
            observations, more, done, measures = self._env.step(action=STOP)
            reward += more
        over = done and (
            not self._inner.task.is_episode_active
            or self._task.end_on_success
            and measures[self._task.success_measure]
        )
        told = self._told(measures) if done else {}
        return self._read(observations), float(reward), bool(over), bool(done and not over), told

    def next_action(self) -> int | None:
        """What the simulator's follower of shortest paths does now (habitat-sim's greedy geodesic follower); None if it knows no way."""
        if self._follower is None:
            keys = {f"{key}_key": HabitatSimActions[name] for key, name in FOLLOWED.items()}
            self._follower = self._inner.sim.make_greedy_follower(0, self._near, **keys)
        try:
            found = self._follower.next_action_along(
                np.array(self._inner.current_episode.goals[0].position, np.float32)
            )
        except Exception as error:
            if (
                type(error).__name__ == "GreedyFollowerError"
            ):  # of habitat-sim, which another simulator may do without
                return None
            raise
        name = next(name for name in FOLLOWED.values() if HabitatSimActions[name] == found)
        return self._actions.index(name) if name in self._actions else None

    def close(self) -> None:
        self._env.close()

    def _told(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Success, and all other measures that are numbers, as habitat computes them."""
        success = found["success"] if "success" in found else found[self._task.success_measure]
        measures = {
            name: value
            for name, value in _numbers(found)
            if name not in ("success", self._task.reward_measure)
        }
        return {"success": bool(success), "measures": measures}

    def _space(self, name: str, sensors: Mapping[str, Any]) -> spaces.Box:
        if name == MAP:
            return spaces.Box(0, 255, (3, self._recipe.map_size, self._recipe.map_size), np.uint8)
        if name == GOAL:
            shape = (3,) if self._recipe.tile is None else (3, self._recipe.tile, self._recipe.tile)
            return spaces.Box(-np.inf, np.inf, shape, np.float32)
        sensor = sensors[self._uuids[name]]
        shape = sensor.shape
        if len(shape) == 3:
            low, high, dtype = (
                (0, 255, np.uint8) if sensor.dtype == np.uint8 else (-np.inf, np.inf, np.float32)
            )
            return spaces.Box(low, high, (shape[2], shape[0], shape[1]), dtype)
        if len(shape) == 1:
            return spaces.Box(-np.inf, np.inf, shape, np.float32)
        raise ValueError(
            f"sensor {self._uuids[name]} gives {sensor}; images (H, W, C) and vectors are known (--env.inputs)"
        )

    def _read(self, observations: Mapping[str, Any]) -> Observation:
        found = {
            name: self._value(name, np.asarray(observations[uuid])) for name, uuid in self._uuids.items()
        }
        if self._map is not None:
            found[MAP] = self._drawn(self._map, observations)
        return found

    def _value(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        if name == GOAL:
            distance, angle = self._polar_of(value)
            vector = np.array([math.cos(angle), math.sin(angle), distance], np.float32)
            tile = self._recipe.tile
            return vector if tile is None else np.tile(vector[:, None, None], (1, tile, tile))
        if value.ndim != 3:
            return value.astype(np.float32)
        image = np.ascontiguousarray(
            value.transpose(2, 0, 1), np.uint8 if value.dtype == np.uint8 else np.float32
        )
        return np.zeros_like(image) if self._recipe.blind else image

    def _polar_of(self, value: NDArray[Any]) -> tuple[float, float]:
        """Distance of the goal in metres, and angle in radians to the left."""
        if self._polar:
            return float(value[0]), float(value[1])
        ahead, right = map(float, value)
        return math.hypot(ahead, right), math.atan2(-right, ahead)

    def _drawn(self, drawing: EgocentricMap, observations: Mapping[str, Any]) -> NDArray[np.uint8]:
        state = self._inner.sim.get_agent_state()
        ahead = quaternion_rotate_vector(state.rotation, np.array([0.0, 0.0, -1.0]))[[0, 2]]
        pose = Pose(np.asarray(state.position, np.float64)[[0, 2]], ahead / np.linalg.norm(ahead))
        drawing.move(pose)
        if self._eye is not None:
            agent = get_agent_config(self._env.config.simulator)
            drawing.look(
                pose, self._eye.points(self._metres(observations[DEPTH])), agent.max_climb, agent.height
            )
        return drawing.draw(pose, *self._polar_of(np.asarray(observations[self._goal])))

    def _metres(self, depth: Any) -> NDArray[np.float64]:
        """A depth image (H, W) in metres; 0 where nothing is seen between the least and the greatest depth of the sensor."""
        sensor, found = self._inner.sim.sensor_suite.get(DEPTH).config, np.asarray(depth, np.float64)[:, :, 0]
        reach = sensor.max_depth - sensor.min_depth
        share = found if sensor.normalize_depth else (found - sensor.min_depth) / reach
        return np.where((share > 0) & (share < 1), sensor.min_depth + share * reach, 0)

    def _depth_camera(self) -> Camera:
        sensors = self._inner.sim.sensor_suite.sensors
        if DEPTH not in sensors:
            raise ValueError(
                f"--env.map depth needs a sensor 'depth'; the simulator has {', '.join(sensors)}"
            )
        sensor = sensors[DEPTH].config
        if sensor.sensor_subtype != "PINHOLE" or any(sensor.orientation):
            raise ValueError("--env.map depth needs a depth sensor that is a pinhole and looks ahead")
        return Camera(float(sensor.position[1]), float(sensor.hfov))


def _is_polar(sensor: Any) -> bool:
    if sensor.get("dimensionality", 2) != 2:
        raise ValueError("a goal in three dimensions is not known; give the goal sensor dimensionality=2")
    return bool(sensor.get("goal_format", "CARTESIAN") == "POLAR")


def _numbers(measures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of measures that are numbers, ``collisions.count`` for those in a table."""
    for name, value in measures.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in _numbers(value))
        elif isinstance(value, (bool, int, float, np.number)):
            yield name, float(value)
