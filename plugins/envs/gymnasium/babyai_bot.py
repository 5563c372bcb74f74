"""The bot of BabyAI, which knows what to do in its levels."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import torch
from torch import Tensor

from sidetune_core.rl import Observations, VectorEnv

from .vector_env import GymWorlds

LEVELS = "minigrid.envs.babyai.core.roomgrid_level"


def is_babyai(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment is a level of BabyAI, of MiniGrid's or one's own."""
    module = sys.modules.get(LEVELS)  # without it there is no such environment
    return module is not None and isinstance(env.unwrapped, module.RoomGridLevel)


class Bot:
    """`Expert` of BabyAI's levels: plans with what it has seen so far (Chevalier-Boisvert et al., ICLR 2019)."""

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        """See `Expert`."""
        from minigrid.utils.baby_ai_bot import BabyAIBot

        assert isinstance(vector_env, GymWorlds)
        self._bot: Any = BabyAIBot(vector_env.first)  # type: ignore[no-untyped-call]
        self._last: Any = None

    def act(self, observations: Observations) -> Tensor | None:
        """See `Expert`; where the bot thinks that the mission is accomplished, and it is not, it gives up."""
        self._last = self._bot.replan(self._last)
        if self._last == self._bot.mission.unwrapped.actions.done:
            return None
        return torch.tensor([[float(self._last)]])
