"""Small Gymnasium environments, one for each kind of action and observation."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3, start=5),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[1, -1]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(np.array([-0.1, 0.0]), np.array([0.1, 2.0]), dtype=np.float64),
}


class Walk(gymnasium.Env[Any, Any]):
    """A random walk that every action pushes; it checks that actions are in their space.

    Args:
        actions: a key of `ACTIONS`.
        image: whether the observation is an image.
        limit: steps of an episode; None for an episode without end.
        render_mode: rgb_array, or nothing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        actions: str = "discrete",
        image: bool = False,
        limit: int | None = 12,
        render_mode: str | None = None,
    ) -> None:
        self.action_space, self.limit, self.render_mode = ACTIONS[actions], limit, render_mode
        self.image = image
        self.observation_space = (
            spaces.Box(0, 255, (6, 8, 3), np.uint8)
            if image
            else spaces.Box(-np.inf, np.inf, (3,), np.float64)
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.place = 0, self.np_random.normal(size=3) * 5 + 20
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.time += 1
        push = float(np.sum(action))
        self.place = self.place + self.np_random.normal(size=3) + push
        return self.observe(), push, self.time == self.limit, False, {}

    def observe(self) -> Any:
        if not self.image:
            return self.place.copy()
        noise = self.np_random.integers(0, 200, (6, 8, 3))
        return (noise + np.clip(self.place, 0, 50).astype(int)).astype(np.uint8)

    def render(self) -> Any:
        return np.full((16, 16, 3), self.time * 10, np.uint8) if self.render_mode == "rgb_array" else None


gymnasium.register("Walk-v0", Walk)
