"""The simulator: an agent with a camera in a `World`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gym import spaces
from habitat.config.default import get_agent_config
from habitat.core.dataset import Episode
from habitat.core.registry import registry
from habitat.core.simulator import AgentState, DepthSensor, Observations, RGBSensor, SensorSuite, Simulator
from habitat.sims.habitat_simulator.actions import HabitatSimActions
from numpy.typing import NDArray
from omegaconf import DictConfig
from quaternion import quaternion

from .world import Floats, World


class RoomsRGB(RGBSensor):
    """An image (H, W, 3) of bytes."""

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> spaces.Box:
        return spaces.Box(0, 255, (self.config.height, self.config.width, 3), np.uint8)

    def get_observation(self, simulator: RoomsSimulator) -> NDArray[np.uint8]:
        return simulator.render(self.config)[0]


class RoomsDepth(DepthSensor):
    """Depths (H, W, 1), clipped to the sensor's range, and scaled to [0, 1] if the config normalises
    depth."""

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> spaces.Box:
        high = 1 if self.config.normalize_depth else self.config.max_depth
        return spaces.Box(0, high, (self.config.height, self.config.width, 1), np.float32)

    def get_observation(self, simulator: RoomsSimulator) -> NDArray[np.float32]:
        low, high = self.config.min_depth, self.config.max_depth
        depth = simulator.render(self.config)[1].clip(low, high)
        if self.config.normalize_depth:
            depth = (depth - low) / (high - low)
        return depth.astype(np.float32)[:, :, None]


SENSORS = {"HabitatSimRGBSensor": RoomsRGB, "HabitatSimDepthSensor": RoomsDepth}


@registry.register_simulator(name="Rooms-v0")
class RoomsSimulator(Simulator):
    """Habitat's simulator interface for a `World` with one agent; a scene is a text file with a floor
    plan."""

    def __init__(self, config: DictConfig) -> None:
        self.habitat_config = config
        self._agent = get_agent_config(config)
        self._sensors = SensorSuite(
            [SENSORS[sensor.type](config=sensor) for sensor in self._agent.sim_sensors.values()]
        )
        self._scene = ""
        self._collided = False

    @property
    def sensor_suite(self) -> SensorSuite:
        return self._sensors

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(len(HabitatSimActions))

    @property
    def previous_step_collided(self) -> bool:
        return self._collided

    def seed(self, seed: int) -> None:
        """The simulator is deterministic."""

    def reconfigure(self, config: DictConfig, episode: Episode | None = None) -> None:
        """Load the scene and the agent's start from the config."""
        self.habitat_config, self._agent = config, get_agent_config(config)
        if config.scene != self._scene:
            self._world, self._scene = World.read(config.scene, self._agent.radius), config.scene

    def reset(self) -> Observations:
        self.set_agent_state(self._agent.start_position, self._agent.start_rotation)
        self._collided = False
        return self._observe()

    def step(self, action: int | None, *args: Any, **kwargs: Any) -> Observations:
        """Move by `forward_step_size` or turn by `turn_angle`; None and STOP do nothing."""
        turn = math.radians(self.habitat_config.turn_angle)
        self._collided = False
        if action == HabitatSimActions.turn_left:
            self._heading += turn
        elif action == HabitatSimActions.turn_right:
            self._heading -= turn
        elif action == HabitatSimActions.move_forward:
            position = self.position_after(0)
            length = np.linalg.norm(position - self._position)
            self._collided = bool(length < self.habitat_config.forward_step_size - 1e-5)
            self._position = position
        return self._observe()

    def step_physics(self, seconds: float) -> None:
        """There is no physics."""

    def get_agent_state(self, agent_id: int = 0) -> AgentState:
        position = np.array([self._position[0], self._floor, self._position[1]], np.float32)
        return AgentState(
            position, quaternion(math.cos(self._heading / 2), 0, math.sin(self._heading / 2), 0)
        )

    def set_agent_state(
        self,
        position: Sequence[float],
        rotation: Sequence[float],
        agent_id: int = 0,
        reset_sensors: bool = True,
    ) -> bool:
        """Place the agent at (x, y, z), rotated by the quaternion (x, y, z, w) about the vertical."""
        self._position, self._floor = np.array([position[0], position[2]], float), float(position[1])
        self._heading = 2 * math.atan2(rotation[1], rotation[3])
        return self.is_navigable(list(position))

    def geodesic_distance(
        self, position_a: Sequence[float], position_b: Any, episode: Episode | None = None
    ) -> float:
        goals = np.atleast_2d(np.asarray(position_b, float))
        return min(
            self._world.distance(np.asarray(position_a, float)[[0, 2]], goal[[0, 2]]) for goal in goals
        )

    def is_navigable(self, point: Sequence[float]) -> bool:
        return self._world.is_free(np.array([point[0], point[2]], float))

    def make_greedy_follower(self, agent_id: int, goal_radius: float, **keys: int) -> Follower:
        """A shortest-path follower, with the interface of habitat-sim's."""
        return Follower(self, goal_radius, keys)

    def position_after(self, turns: int) -> Floats:
        """Position (x, z) after `turns` turns to the left and a step forward."""
        heading = self._heading + turns * math.radians(self.habitat_config.turn_angle)
        return self._world.move(
            self._position,
            self.habitat_config.forward_step_size * np.array([-math.sin(heading), -math.cos(heading)]),
        )

    def render(self, sensor: DictConfig) -> tuple[NDArray[np.uint8], Floats]:
        """Image and depth of a camera at the agent's position, see `World.render`; equal cameras are rendered
        once."""
        camera = sensor.position[1], (sensor.height, sensor.width), sensor.hfov
        if camera not in self._rendered:
            height, size, view = camera
            self._rendered[camera] = self._world.render(self._position, height, self._heading, size, view)
        return self._rendered[camera]

    def _observe(self) -> Observations:
        self._rendered: dict[tuple[Any, ...], tuple[NDArray[np.uint8], Floats]] = {}
        return self._sensors.get_observations(self)


class Follower:
    """Turns to the heading in which a step most reduces the distance to the goal, then steps."""

    def __init__(self, simulator: RoomsSimulator, radius: float, keys: Mapping[str, int]) -> None:
        self._simulator, self._radius, self._keys = simulator, radius, keys

    def next_action_along(self, goal: Any) -> int:
        """One of the keys."""
        position = self._simulator.get_agent_state().position
        if self._simulator.geodesic_distance(position, goal) < self._radius:
            return self._keys["stop_key"]
        half = 180 // self._simulator.habitat_config.turn_angle
        candidates = range(-half, half + 1)
        turns = min(candidates, key=lambda turns: (round(self._distance_after(turns, goal), 4), abs(turns)))
        return self._keys["forward_key" if turns == 0 else "left_key" if turns > 0 else "right_key"]

    def _distance_after(self, turns: int, goal: Any) -> float:
        """Distance to the goal in metres after turns to the left and a step."""
        x, z = self._simulator.position_after(turns)
        return self._simulator.geodesic_distance((x, 0.0, z), goal)
