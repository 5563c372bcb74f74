"""A navigation task of habitat-lab as a Gymnasium environment. Only worker processes import this module."""

from __future__ import annotations

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

from .convert import polar_goal, sensor_input
from .map import Camera, EgocentricMap, Pose
from .spec import FRAMES_PER_SECOND, GOAL, IMAGE, MAP, EnvSpec, SensorInput

Observation = dict[str, NDArray[Any]]
STOP, RGB, DEPTH = "stop", "rgb", "depth"
FOLLOWER_ACTIONS = {"stop": STOP, "forward": "move_forward", "left": "turn_left", "right": "turn_right"}
"""Actions of the shortest-path follower, by its keyword."""


class Navigation(gymnasium.Env[Any, Any]):
    """Habitat's ``RLTaskEnv`` with dictionary observations, discrete actions, and measurements in the final
    ``info``.

    Images are (C, H, W), and ``rgb`` is called ``image``. ``goal`` is the cosine and the sine of the angle to
    the goal, positive to the left, and its distance in metres: (3,), or constant planes (3, tile, tile).

    Raises:
        ValueError: the config lacks something that the spec needs, or an action takes arguments.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_SECOND}

    def __init__(self, env: RLTaskEnv, spec: EnvSpec) -> None:
        self._env, self._inner, self._spec = env, env.habitat_env, spec
        self._task, self._episodes = env.config.task, list(env.episodes)
        action_spaces = env.action_space.spaces.items()
        if parametric := [name for name, space in action_spaces if not isinstance(space, EmptySpace)]:
            raise ValueError(
                f"action {', '.join(parametric)} takes arguments; only actions without arguments are "
                "supported"
            )
        success = self._task.measurements.get("success")
        if spec.oracle_stop and success is None:
            raise ValueError(
                "--env.oracle-stop needs habitat's measurement 'success' in the config, which has the "
                "success radius"
            )
        self._success_radius = float(success.success_distance) if success is not None else 0.0
        self._actions = [name for name in self._task.actions if not (spec.oracle_stop and name == STOP)]
        self.action_space = spaces.Discrete(len(self._actions))
        self._polar, self._shown = False, None
        self._uuids = self._sensor_uuids()
        self._map: EgocentricMap | None = None
        if MAP in spec.inputs:
            self._map = EgocentricMap(spec.map_size, spec.map_metres, spec.map_pool, spec.map_clip_goal)
        needs_depth = self._map is not None and spec.map == "depth" and not spec.mask_images
        self._camera = self._depth_camera() if needs_depth else None
        self._follower: Any = None
        self.observation_space = spaces.Dict(
            {name: self._space(name, env.observation_space.spaces) for name in spec.inputs}
        )

    def _sensor_uuids(self) -> dict[str, str]:
        """Sensors by input name; also sets up the goal sensor.

        Raises:
            ValueError: the config has no such sensor.
        """
        goal = self._inner.task.sensor_suite.sensors.get(self._task.get("goal_sensor_uuid"))
        names = {RGB: IMAGE, **({goal.uuid: GOAL} if isinstance(goal, PointGoalSensor) else {})}
        sensors = {names.get(uuid, uuid): uuid for uuid in self._env.observation_space.spaces}
        available = [*sensors, *([MAP] if GOAL in sensors else [])]
        if unknown := [name for name in self._spec.inputs if name not in available]:
            raise ValueError(
                f"there is no input {', '.join(unknown)} (--env.inputs); the config's sensors provide "
                f"{', '.join(available)}"
            )
        if {GOAL, MAP} & set(self._spec.inputs):
            self._goal, self._polar = sensors[GOAL], _is_polar(goal.config)
        return {name: sensors[name] for name in self._spec.inputs if name != MAP}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the next episode; a seed restarts habitat's episode iterator.

        ``habitat.Env.seed`` would do the same, but also compile a function to seed Numba, which is not used.
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
            self._map.clear()
        return self._convert(self._env.reset()), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take an action; with an oracle stop, STOP follows in the same step once the goal is within the
        success radius."""
        observations, reward, done, measures = self._env.step(action=self._actions[int(action)])
        if self._spec.oracle_stop and not done and measures["distance_to_goal"] < self._success_radius:
            observations, stop_reward, done, measures = self._env.step(action=STOP)
            reward += stop_reward
        terminated = done and (
            not self._inner.task.is_episode_active
            or self._task.end_on_success
            and measures[self._task.success_measure]
        )
        info = self._final_info(measures) if done else {}
        return (
            self._convert(observations),
            float(reward),
            bool(terminated),
            bool(done and not terminated),
            info,
        )

    def next_action(self) -> int | None:
        """The action of the simulator's shortest-path follower (habitat-sim's greedy geodesic follower); None
        if there is no path."""
        if self._follower is None:
            keys = {f"{key}_key": HabitatSimActions[name] for key, name in FOLLOWER_ACTIONS.items()}
            self._follower = self._inner.sim.make_greedy_follower(0, self._success_radius, **keys)
        goal = np.array(self._inner.current_episode.goals[0].position, np.float32)
        try:
            action = self._follower.next_action_along(goal)
        except Exception as error:
            if type(error).__name__ == "GreedyFollowerError":  # habitat-sim's, which may not be installed
                return None
            raise
        name = next(name for name in FOLLOWER_ACTIONS.values() if HabitatSimActions[name] == action)
        return self._actions.index(name) if name in self._actions else None

    def render(self) -> Any:
        """The latest image of sensor ``rgb``, (H, W, 3) bytes, or else the map; None if there is neither."""
        if self._shown is None:
            return None
        image = np.asarray(self._shown)
        return image if image.shape[2] == 3 else image.transpose(1, 2, 0)

    def sensors(self) -> dict[str, SensorInput]:
        """The sensor of each input."""
        spaces_of = self._env.observation_space.spaces
        sensors = {
            name: SensorInput(uuid, spaces_of[uuid].shape, spaces_of[uuid].dtype == np.uint8, self._polar)
            for name, uuid in self._uuids.items()
        }
        if self._map is not None:
            sensors[MAP] = SensorInput(MAP, (3, self._spec.map_size, self._spec.map_size), True)
        return sensors

    def is_shown(self) -> bool:
        """Whether `render` has an image."""
        return RGB in self._env.observation_space.spaces or self._map is not None

    def action_names(self) -> tuple[str, ...]:
        """Habitat's names of the actions, in their order."""
        return tuple(self._actions)

    def close(self) -> None:
        self._env.close()

    def _final_info(self, measures: Mapping[str, Any]) -> dict[str, Any]:
        """Success, and all other numeric measurements as habitat computes them."""
        success = measures["success"] if "success" in measures else measures[self._task.success_measure]
        excluded = ("success", self._task.reward_measure)
        metrics = {name: value for name, value in _numbers(measures) if name not in excluded}
        return {"success": bool(success), "metrics": metrics}

    def _space(self, name: str, sensors: Mapping[str, Any]) -> spaces.Box:
        if name == MAP:
            return spaces.Box(0, 255, (3, self._spec.map_size, self._spec.map_size), np.uint8)
        if name == GOAL:
            shape = (3,) if self._spec.tile is None else (3, self._spec.tile, self._spec.tile)
            return spaces.Box(-np.inf, np.inf, shape, np.float32)
        sensor = sensors[self._uuids[name]]
        shape = sensor.shape
        if len(shape) == 3:
            planes = (shape[2], shape[0], shape[1])
            if sensor.dtype == np.uint8:
                return spaces.Box(0, 255, planes, np.uint8)
            return spaces.Box(-np.inf, np.inf, planes, np.float32)
        if len(shape) == 1:
            return spaces.Box(-np.inf, np.inf, shape, np.float32)
        raise ValueError(
            f"sensor {self._uuids[name]} has the space {sensor}; supported are images (H, W, C) and vectors "
            "(--env.inputs)"
        )

    def _convert(self, observations: Mapping[str, Any]) -> Observation:
        converted = {
            name: sensor_input(
                name,
                np.asarray(observations[uuid]),
                polar=self._polar,
                tile=self._spec.tile,
                mask_images=self._spec.mask_images,
            )
            for name, uuid in self._uuids.items()
        }
        if self._map is not None:
            converted[MAP] = self._draw_map(self._map, observations)
        self._shown = observations.get(RGB, converted.get(MAP))
        return converted

    def _draw_map(self, egocentric_map: EgocentricMap, observations: Mapping[str, Any]) -> NDArray[np.uint8]:
        state = self._inner.sim.get_agent_state()
        ahead = quaternion_rotate_vector(state.rotation, np.array([0.0, 0.0, -1.0]))[[0, 2]]
        pose = Pose(np.asarray(state.position, np.float64)[[0, 2]], ahead / np.linalg.norm(ahead))
        egocentric_map.move(pose)
        if self._camera is not None:
            agent = get_agent_config(self._env.config.simulator)
            points = self._camera.points(self._metres(observations[DEPTH]))
            egocentric_map.look(pose, points, agent.max_climb, agent.height)
        return egocentric_map.draw(pose, *polar_goal(np.asarray(observations[self._goal]), self._polar))

    def _metres(self, depth: Any) -> NDArray[np.float64]:
        """A depth image (H, W) in metres; 0 outside the sensor's range."""
        sensor, values = (
            self._inner.sim.sensor_suite.get(DEPTH).config,
            np.asarray(depth, np.float64)[:, :, 0],
        )
        span = sensor.max_depth - sensor.min_depth
        fraction = values if sensor.normalize_depth else (values - sensor.min_depth) / span
        return np.where((fraction > 0) & (fraction < 1), sensor.min_depth + fraction * span, 0)

    def _depth_camera(self) -> Camera:
        sensors = self._inner.sim.sensor_suite.sensors
        if DEPTH not in sensors:
            raise ValueError(
                f"--env.map depth needs a sensor 'depth'; sensors of the simulator: {', '.join(sensors)}"
            )
        sensor = sensors[DEPTH].config
        if sensor.sensor_subtype != "PINHOLE" or any(sensor.orientation):
            raise ValueError("--env.map depth needs a pinhole depth sensor with a horizontal optical axis")
        return Camera(float(sensor.position[1]), float(sensor.hfov))


def _is_polar(sensor: Any) -> bool:
    if sensor.get("dimensionality", 2) != 2:
        raise ValueError(
            "goals in three dimensions are not supported; set dimensionality=2 of the goal sensor"
        )
    return bool(sensor.get("goal_format", "CARTESIAN") == "POLAR")


def _numbers(measures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of numeric measurements; nested ones have dotted names, such as
    ``collisions.count``."""
    for name, value in measures.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in _numbers(value))
        elif isinstance(value, (bool, int, float, np.number)):
            yield name, float(value)
