"""A Gymnasium environment with several kinds of observations and of failures."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Odd(gymnasium.Env[Any, Any]):
    """Observations are an image, an integer and text; actions are a box.

    Args:
        length: steps of an episode.
        fails: the failure: raises, hangs, dies, or nan for a NaN reward.
        at: step of the failure, counted since creation.
        fixed: a file; if it exists, nothing fails.
    """

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (6, 8, 3), np.uint8),
            "mode": spaces.Discrete(3),
            "words": spaces.Text(5),
        }
    )
    action_space = spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, length: int = 3, fails: str = "", at: int = 5, fixed: str = "fixed") -> None:
        self.length, self.at, self.steps = length, at, 0
        self.fails = "" if Path(fixed).exists() else fails

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.time += 1
        self.steps += 1
        if self.steps == self.at:
            if self.fails == "raises":
                raise ArithmeticError("gravity is off")
            if self.fails == "hangs":
                if "HANGING" in os.environ:
                    Path(os.environ["HANGING"]).touch()
                time.sleep(60)
            if self.fails == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
        reward = float("nan") if self.fails == "nan" and self.steps == self.at else 0.5
        is_over = self.time == self.length
        return self._observe(), reward, is_over, False, {"is_success": self.length == 3} if is_over else {}

    def _observe(self) -> dict[str, Any]:
        return {
            "camera": np.full((6, 8, 3), 10 * self.time, np.uint8),
            "mode": self.time % 3,
            "words": "hello",
        }


gymnasium.register("Odd-v0", Odd, max_episode_steps=100)
