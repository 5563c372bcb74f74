"""BabyAI's bot, the expert of its levels."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import torch
from torch import Tensor

from sidetune_core.rl import Observations, VectorEnv

from .vector_env import GymVectorEnv

LEVELS_MODULE = "minigrid.envs.babyai.core.roomgrid_level"


def is_babyai(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment is a BabyAI level, of MiniGrid or of another package."""
    module = sys.modules.get(LEVELS_MODULE)  # a level cannot exist before its module is imported
    return module is not None and isinstance(env.unwrapped, module.RoomGridLevel)


class Bot:
    """`Expert` of BabyAI's levels: plans with what it has observed so far (Chevalier-Boisvert et al., ICLR
    2019)."""

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        """See `Expert`."""
        from minigrid.utils.baby_ai_bot import BabyAIBot

        assert isinstance(vector_env, GymVectorEnv)
        self._bot: Any = BabyAIBot(vector_env.first)  # type: ignore[no-untyped-call]
        self._last_action: Any = None

    def act(self, observations: Observations) -> Tensor | None:
        """See `Expert`; None if the bot takes an unfinished mission for accomplished."""
        self._last_action = self._bot.replan(self._last_action)
        if self._last_action == self._bot.mission.unwrapped.actions.done:
            return None
        return torch.tensor([[float(self._last_action)]])

    def took(self, action: Tensor) -> None:
        """See `FollowsActions`: the bot plans how to undo what it did not suggest."""
        self._last_action = type(self._last_action)(int(action))
