"""What a rollout task needs to know from the options of its env."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar, Literal, Self

import attrs

from sidetune_core.config.options import Renamed, at_least, option
from sidetune_core.rl.ppo import PPOOptions

ORIGINAL_TRAINING: Mapping[str, Any] = {
    "batch_size": 128,
    "lr": 1e-4,
    "schedule": "constant",
    "adam_eps": 1e-5,
    "grad_clip": 0.5,
}
"""Options of training in the experiments of preset 'original'."""

ORIGINAL: Mapping[str, Any] = {
    "num_envs": 6,
    "deterministic_eval": False,
    "ppo.rollout_length": 512,
    "ppo.epochs": 5,
    "ppo.replay_epochs": 10,
    "ppo.replay_steps": 1024,
    "ppo.recompute_advantages": True,
    "ppo.clip": 0.1,
    "ppo.gamma": 0.99,
    "ppo.gae_lambda": 0.95,
    "ppo.value_coef": 1e-3,
    "ppo.entropy_coef": 1e-4,
}
"""PPO with replay as in the reinforcement learning of the side-tuning paper; with a batch size of 128 a pass
has 24 batches."""


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

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"original": ORIGINAL}
    """Values of options by name of the preset; those of PPO have dotted names."""
    preset_training: ClassVar[Mapping[str, Mapping[str, Any]]] = {"original": ORIGINAL_TRAINING}
    """Options of training by name of the preset, which are the user's to pass."""

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
    preset: Literal["none", "original"] = option(
        "none",
        "other values for the options that have their defaults; original: those of the side-tuning paper",
    )

    def with_preset(self) -> Self:
        """These options with the values of the preset where they have their defaults."""
        values = self._preset_values()
        own = {name: value for name, value in values.items() if "." not in name}
        ppo = {name.removeprefix("ppo."): value for name, value in values.items() if "." in name}
        return attrs.evolve(self, ppo=attrs.evolve(self.ppo, **ppo), **own) if values else self

    def preset_note(self) -> str:
        """The options that a preset changes, in a sentence; empty if it changes none. Asked of the options
        that were given, not of those that `with_preset` returns."""
        flags = [_flag(name, value) for name, value in self._preset_values().items()]
        return f"preset {self.preset} sets {' '.join(flags)}" if flags else ""

    @property
    def recommended_training(self) -> Mapping[str, Any]:
        """Options of training that belong to the preset; a run that has others names them in its header."""
        return self.preset_training.get(self.preset, {})

    def _preset_values(self) -> dict[str, Any]:
        """The values of the preset for options that have their defaults and another value with it."""
        defaults = {field.name: field.default for field in attrs.fields(type(self))}
        return {
            name: value
            for name, value in self.presets.get(self.preset, {}).items()
            if attrgetter(name)(self) == _value_in(defaults, name) != value
        }

    def with_evaluation(self, num_envs: int, eval_episodes: int, deterministic_eval: bool) -> Self:
        """The same options with other evaluations."""
        return attrs.evolve(
            self, num_envs=num_envs, eval_episodes=eval_episodes, deterministic_eval=deterministic_eval
        )


def _value_in(defaults: Mapping[str, Any], name: str) -> Any:
    first, _, rest = name.partition(".")
    return attrgetter(rest)(defaults[first]) if rest else defaults[first]


def _flag(name: str, value: Any) -> str:
    """``--env.ppo.clip 0.1``, ``--env.no-deterministic-eval``, ``--env.inputs image goal``."""
    *group, last = name.replace("_", "-").split(".")
    if isinstance(value, bool):
        return "--" + ".".join(["env", *group, last if value else f"no-{last}"])
    values = value if isinstance(value, list | tuple) else (value,)
    return " ".join(["--" + ".".join(["env", *group, last]), *map(str, values)])
