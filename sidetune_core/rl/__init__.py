"""Reinforcement learning for authors of environments: tasks that are trained by PPO on their own rollouts."""

from typing import Any

from sidetune_core.errors import RolloutError
from sidetune_core.rl.distributions import Actor, Categorical, Gaussian, Policy
from sidetune_core.rl.episode_stats import Episode
from sidetune_core.rl.masks import MASK, mask_invalid, mask_of
from sidetune_core.rl.memory import POSITION, STATE, RecurrentActor
from sidetune_core.rl.policy_handler import (
    ActionPrediction,
    PolicyHandler,
    check_array,
    check_count,
    encode_rows,
)
from sidetune_core.rl.ppo import PPOOptions
from sidetune_core.rl.rollout_config import ORIGINAL, RolloutConfig
from sidetune_core.rl.rollout_task import MAX_EVAL_STEPS, Playable, RolloutTask
from sidetune_core.rl.vector_env import (
    Expert,
    FollowsActions,
    Image,
    Observations,
    RenderedVectorEnv,
    Step,
    VectorEnv,
)

__all__ = [
    "ActionPrediction",
    "Actor",
    "Categorical",
    "Episode",
    "Expert",
    "FollowsActions",
    "Image",
    "MASK",
    "MAX_EVAL_STEPS",
    "Gaussian",
    "ORIGINAL",
    "Observations",
    "POSITION",
    "PPOOptions",
    "Playable",
    "Policy",
    "PolicyHandler",
    "RecurrentActor",
    "RenderedVectorEnv",
    "RolloutConfig",
    "RolloutError",
    "RolloutTask",
    "STATE",
    "Step",
    "VectorEnv",
    "check_array",
    "check_count",
    "encode_rows",
    "mask_invalid",
    "mask_of",
]


def __getattr__(name: str) -> Any:
    """`RolloutOptions` of version 0.1, which warns where a class inherits it."""
    if name == "RolloutOptions":
        from sidetune_core.rl.former_names import RolloutOptions

        return RolloutOptions
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
