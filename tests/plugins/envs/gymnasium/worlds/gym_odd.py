"""A Gymnasium environment that observes all kinds of things, and fails as it is told."""

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
    """Observes an image, a number and text, acts in a box, and ends, or fails, as it is told.

    Args:
        length: steps of an episode.
        fails: how it fails in a step: raises, hangs, dies, or nan for a reward that is no number.
        at: number of that step since it was made.
        mended: a file; where it exists, nothing fails.
    """

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (6, 8, 3), np.uint8),
            "mode": spaces.Discrete(3),
            "words": spaces.Text(5),
        }
    )
    action_space = spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, length: int = 3, fails: str = "", at: int = 5, mended: str = "mended") -> None:
        self.length, self.fails, self.at, self.taken = length, "" if Path(mended).exists() else fails, at, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.time += 1
        self.taken += 1
        if self.taken == self.at:
            if self.fails == "raises":
                raise ArithmeticError("gravity is off")
            if self.fails == "hangs":
                time.sleep(60)
            if self.fails == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
        reward = float("nan") if self.fails == "nan" and self.taken == self.at else 0.5
        over = self.time == self.length
        return self.look(), reward, over, False, {"is_success": self.length == 3} if over else {}

    def look(self) -> dict[str, Any]:
        return {
            "camera": np.full((6, 8, 3), 10 * self.time, np.uint8),
            "mode": self.time % 3,
            "words": "hello",
        }


gymnasium.register("Odd-v0", Odd, max_episode_steps=100)
