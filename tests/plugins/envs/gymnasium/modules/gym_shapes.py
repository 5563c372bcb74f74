"""Gymnasium environments of every kind of observation and action."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

THREE = spaces.Box(-1.0, 1.0, (3,))

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "channels-last": spaces.Box(0, 255, (9, 12, 3), np.uint8),
    "channels-first": spaces.Box(0, 255, (3, 9, 12), np.uint8),
    "stacked-grey": spaces.Box(0, 255, (4, 9, 9), np.uint8),
    "stacked-colour": spaces.Box(0, 255, (2, 9, 9, 3), np.uint8),
    "four-channels": spaces.Box(0, 255, (9, 9, 4), np.uint8),
    "grey": spaces.Box(0, 255, (9, 9), np.uint8),
    "symbols": spaces.Box(0, 1, (9, 7, 20), np.uint8),
    "float": spaces.Box(0.0, 1.0, (9, 12, 3), np.float32),
    "float-255": spaces.Box(0.0, 255.0, (3, 9, 12), np.float32),
    "float-grey": spaces.Box(0.0, 1.0, (9, 9), np.float64),
    "matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    "cube": spaces.Box(-np.inf, np.inf, (2, 3, 4), np.float32),
    "scalar": spaces.Box(-1.0, 1.0, (), np.float32),
    "tuple": spaces.Tuple((spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4))),
    "nested": spaces.Dict(
        {
            "pos": spaces.Box(-1.0, 1.0, (2,)),
            "inner": spaces.Dict(
                {"goal": spaces.Box(-1.0, 1.0, (3,)), "two": spaces.Tuple((spaces.Discrete(2),))}
            ),
        }
    ),
    "multibinary": spaces.MultiBinary((2, 3)),
    "multidiscrete": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "words": spaces.Dict(
        {
            "words": spaces.Text(5),
            "pos": spaces.Box(-1.0, 1.0, (2,)),
            "many": spaces.Sequence(spaces.Discrete(2)),
        }
    ),
    "text": spaces.Text(5),
    "same": spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(3)})}),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "two": spaces.Discrete(2),
    "wide": spaces.Box(0.0, 1000.0, (1,)),
    "unit": spaces.Box(-1.0, 1.0, (1,)),
    "whole": spaces.Box(0, 10, (2,), np.int32),
    "matrices": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "bits": spaces.MultiBinary((2, 2)),
    "odd": spaces.Box(
        np.array([0.0, -1e9, -1.0, 0.0]), np.array([np.inf, 1e9, 1.0, 500.0]), dtype=np.float64
    ),
    "dict": spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1.0, 1.0, (2,))}),
}


class Shapes(gymnasium.Env[Any, Any]):
    """Random observations; the reward of a Box is the closeness of its first element to 70 % of its range.

    Args:
        observations: a key of `OBSERVATIONS`.
        actions: a key of `ACTIONS`.
        length: steps of an episode; None for an episode without end.
    """

    def __init__(self, observations: str = "matrix", actions: str = "two", length: int | None = 5) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[observations], ACTIONS[actions]
        self.length = length

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.time += 1
        reward = 1.0
        if isinstance(self.action_space, spaces.Box):
            low, high = float(self.action_space.low.flat[0]), float(self.action_space.high.flat[0])
            reward = 1 - abs((float(np.ravel(action)[0]) - low) / (high - low) - 0.7)
        return self.observation_space.sample(), reward, self.time == self.length, False, {}


class Double(gymnasium.RewardWrapper[Any, Any]):
    """Doubles the reward."""

    def reward(self, reward: Any) -> float:
        return 2 * float(reward)


def in_dictionary(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Observations in a dictionary."""
    space = spaces.Dict({"inside": env.observation_space})
    return gymnasium.wrappers.TransformObservation(env, lambda value: {"inside": value}, space)


def no_env(env: gymnasium.Env[Any, Any]) -> int:
    return 3


gymnasium.register("Shapes-v0", Shapes)


class Wrong(Shapes):
    """Its observations have another shape than its space."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed)
        return observation[..., :-1], info


class Arrays(Shapes):
    """Its rewards and ends are arrays."""

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, np.array([reward]), np.bool_(terminated), np.bool_(truncated), info


gymnasium.register("Wrong-v0", Wrong)
gymnasium.register("Arrays-v0", Arrays)
