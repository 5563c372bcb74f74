"""Names of version 0.1 that environments written against it still use; they go in version 0.3."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import attrs

from sidetune_core.config.options import REMOVAL, at_least, at_most, more_than, option
from sidetune_core.rl.ppo import PPOOptions

T = TypeVar("T")


def former_fields(**names: str) -> Callable[[type[T]], type[T]]:
    """A class decorator: fields may be passed and read by their former names, with a `DeprecationWarning`.

    Args:
        names: new names by former ones.
    """

    def decorate(cls: type[T]) -> type[T]:
        init: Callable[..., None] = cls.__init__

        @functools.wraps(init)
        def accepting(self: T, *args: Any, **values: Any) -> None:
            for name in names.keys() & values.keys():
                _warn(cls, name, names[name])
                values[names[name]] = values.pop(name)
            init(self, *args, **values)

        cls.__init__ = accepting  # type: ignore[method-assign,assignment]
        for name, new in names.items():
            setattr(cls, name, property(functools.partial(_read, cls=cls, name=name, new=new)))
        return cls

    return decorate


def _read(instance: Any, cls: type[Any], name: str, new: str) -> Any:
    _warn(cls, name, new)
    return getattr(instance, new)


def _warn(cls: type[Any], name: str, new: str) -> None:
    warnings.warn(
        f"{cls.__name__}.{name} is now {cls.__name__}.{new}; "
        f"the former name stops working in version {REMOVAL}",
        DeprecationWarning,
        stacklevel=3,
    )


@attrs.frozen
class RolloutOptions:
    """The flat options that the ``Config`` of a rollout env inherited in version 0.1, readable as a
    `RolloutConfig`."""

    envs: int = option(8, "number of environments that run in parallel", at_least(1))
    rollout: int = option(128, "rollout length: steps of each environment between two updates", at_least(1))
    frames: int = option(
        100_000,
        "steps of all environments in one of --train.epochs, rounded up to whole rollouts",
        at_least(1),
    )
    passes: int = option(4, "PPO epochs per rollout", at_least(1))
    gamma: float = option(0.99, "discount factor", at_least(0), at_most(1))
    gae_lambda: float = option(0.95, "lambda of generalised advantage estimation", at_least(0), at_most(1))
    clip: float = option(0.2, "clip range of the probability ratio", more_than(0))
    clip_value: float | None = option(None, "clip range of the value; None for no clipping", more_than(0))
    value_coef: float = option(0.5, "weight of the value loss", at_least(0))
    entropy_coef: float = option(0.0, "weight of the entropy bonus", at_least(0))
    normalise_advantages: bool = option(True, "standardise advantages in each batch")
    normalise_observations: bool = option(False, "standardise vector observations by running statistics")
    normalise_rewards: bool = option(
        False, "divide training rewards by the running standard deviation of the discounted return"
    )
    hidden: int = option(64, "units of each hidden layer of actor and critic", at_least(1))
    layers: int = option(1, "number of hidden layers of actor and critic", at_least(0))
    episodes: int = option(100, "number of evaluation episodes", at_least(1))
    evaluate: Literal["mode", "sample"] = option(
        "mode", "actions in evaluation: the most likely, or sampled from the policy"
    )

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        warnings.warn(
            f"{cls.__module__}.{cls.__qualname__} inherits RolloutOptions, which is removed in version "
            f"{REMOVAL}; inherit sidetune_core.rl.RolloutConfig, whose options of PPO are nested in `ppo`",
            DeprecationWarning,
            stacklevel=2,
        )

    @property
    def num_envs(self) -> int:
        """See `RolloutConfig`."""
        return self.envs

    @property
    def eval_episodes(self) -> int:
        """See `RolloutConfig`."""
        return self.episodes

    @property
    def deterministic_eval(self) -> bool:
        """See `RolloutConfig`."""
        return self.evaluate == "mode"

    @property
    def ppo(self) -> PPOOptions:
        """See `RolloutConfig`."""
        return PPOOptions(
            rollout_length=self.rollout,
            epochs=self.passes,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            clip=self.clip,
            value_clip=self.clip_value,
            value_coef=self.value_coef,
            entropy_coef=self.entropy_coef,
            normalise_advantages=self.normalise_advantages,
            normalise_observations=self.normalise_observations,
            normalise_rewards=self.normalise_rewards,
            hidden_size=self.hidden,
            hidden_layers=self.layers,
        )

    def with_evaluation(self, num_envs: int, eval_episodes: int, deterministic_eval: bool) -> RolloutOptions:
        """See `RolloutConfig`."""
        evaluate: Literal["mode", "sample"] = "mode" if deterministic_eval else "sample"
        return attrs.evolve(self, envs=num_envs, episodes=eval_episodes, evaluate=evaluate)
