"""What a rollout task needs to know from the options of its env."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import attrs

from sidetune_core.config.options import Renamed, at_least, option
from sidetune_core.rl.ppo import PPOOptions


@attrs.frozen
class RolloutConfig:
    """The options that every env with rollout tasks has; its ``Config`` inherits them.

    An env with other defaults declares the field again: ``ppo: PPOOptions = option(PPOOptions(gamma=0.9),
    "options of PPO")``.
    """

    former_options: ClassVar[Mapping[str, Renamed]] = {
        "envs": Renamed("num-envs"),
        "episodes": Renamed("eval-episodes"),
        "evaluate": Renamed("deterministic-eval", {"mode": True, "sample": False}),
        "rollout": Renamed("ppo.rollout-length"),
        "passes": Renamed("ppo.epochs"),
        "gamma": Renamed("ppo.gamma"),
        "gae-lambda": Renamed("ppo.gae-lambda"),
        "clip": Renamed("ppo.clip"),
        "clip-value": Renamed("ppo.value-clip"),
        "value-coef": Renamed("ppo.value-coef"),
        "entropy-coef": Renamed("ppo.entropy-coef"),
        "normalise-advantages": Renamed("ppo.normalise-advantages"),
        "normalise-observations": Renamed("ppo.normalise-observations"),
        "normalise-rewards": Renamed("ppo.normalise-rewards"),
        "hidden": Renamed("ppo.hidden-size"),
        "layers": Renamed("ppo.hidden-layers"),
    }
    """Those of version 0.1, when all options of PPO were options of the env."""

    num_envs: int = option(8, "number of environments that run in parallel", at_least(1))
    frames: int = option(
        100_000,
        "steps of all environments in one of --train.epochs, rounded up to whole rollouts",
        at_least(1),
    )
    eval_episodes: int = option(100, "number of evaluation episodes", at_least(1))
    deterministic_eval: bool = option(
        True, "evaluate with the most likely action; otherwise sample from the policy"
    )
    ppo: PPOOptions = option(PPOOptions(), "options of PPO")

    def with_evaluation(self, num_envs: int, eval_episodes: int, deterministic_eval: bool) -> Self:
        """The same options with other evaluations."""
        return attrs.evolve(
            self, num_envs=num_envs, eval_episodes=eval_episodes, deterministic_eval=deterministic_eval
        )
