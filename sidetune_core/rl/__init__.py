"""Reinforcement learning for env authors: tasks that collect their own experience and learn from it by PPO."""

from sidetune_core.rl.distributions import Actor, Categorical, Gaussian, Policy
from sidetune_core.rl.ppo import RolloutOptions
from sidetune_core.rl.rollout_task import RolloutTask
from sidetune_core.rl.vector_env import Expert, Observations, Step, VectorEnv

__all__ = [
    "Actor",
    "Categorical",
    "Expert",
    "Gaussian",
    "Observations",
    "Policy",
    "RolloutOptions",
    "RolloutTask",
    "Step",
    "VectorEnv",
]
