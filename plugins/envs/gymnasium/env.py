"""Gymnasium environments as a stream of tasks, learnt by PPO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import attrs
import gymnasium

from sidetune_core.api import DataError, InputShapes, OptionError, TaskStream, at_least, more_than, option
from sidetune_core.rl import Expert, Policy, RolloutOptions, RolloutTask, VectorEnv

from .babyai_bot import Bot, is_babyai
from .make import EnvSpec, is_minigrid, make, versions_of
from .vector_env import GymWorlds, policy_of, shapes_of

BYTE = 255.0

BOT = "bot"

RL = "pip install 'sidetune[rl]'"

INSTALL = {
    "minigrid": RL,
    "vizdoom": RL,
    "shimmy": "pip install 'shimmy[gym-v26]', or 'shimmy[gym-v21]' for environments whose step gives four values; both want NumPy 1, so "
    "take an environment of its own, without constraints.txt",
}
"""By the module that is missing."""


class Gym(TaskStream):
    """Any Gymnasium environments, one task for each id, in their order.

    Images are ``image`` (stack * C, H, W) in [0, 1], or have the name that the environment gives them; vectors are (stack * C,), called
    ``vector`` where there is nothing else; whole numbers from a range are one-hot vectors; text is left out. All tasks must have inputs
    of one shape. MiniGrid's 7 x 7 view is given as one-hot symbols (20, 7, 7), or drawn in 28 x 28 pixels.

    An epoch is ``frames`` steps of all environments together. The metric is the mean return of ``episodes`` episodes, the same in every
    run. An episode is a success if it returns ``success`` or more; without that option, if the environment says so in ``info``; else if
    it reaches the environment's registered reward threshold; else if it returns more than 0, as in MiniGrid.

    BabyAI's levels (Chevalier-Boisvert et al., ICLR 2019) have an expert ``bot``, for ``sidetune collect``.

    A run that was stopped goes on at an update, with new episodes.

    Environments of the old gym are reached through shimmy: ``--env.ids GymV26Environment-v0 --env.arguments '{"env_id": "CartPole-v1"}'``
    after ``pip install 'shimmy[gym-v26]'``, and ``GymV21Environment-v0`` with ``shimmy[gym-v21]`` for those whose step gives four values.
    ``{"env_id": "module:Id-v0"}`` imports a module first; ``"make_kwargs": {...}`` is for gym.make.

    Raises:
        DataError: an environment is not there, cannot be made, or has other inputs than the first.
        OptionError: an option does not fit an environment.
    """

    @attrs.frozen
    class Config(RolloutOptions):
        """Options of `Gym`."""

        frames: int = option(
            40_960,
            "steps of all environments in one of --train.epochs, rounded up to whole rollouts",
            at_least(1),
        )
        ids: str = option(
            "MiniGrid-Empty-5x5-v0",
            "ids of environments, separated by commas; module:Id-v0 imports a module first",
        )
        arguments: str = option("{}", "keyword arguments of gymnasium.make for all of them, as JSON")
        processes: bool = option(
            False, "give each environment a process of its own, which pays where a step takes over 0.1 ms"
        )
        timeout: float = option(
            60.0, "seconds that a step of an environment in its own process may take", more_than(0)
        )
        inputs: str = option("", "names of the inputs to keep, separated by commas; empty for all")
        view: Literal["symbols", "pixels"] = option("symbols", "MiniGrid's view, as one-hot symbols or drawn")
        grey: bool = option(False, "turn images into grey ones")
        size: int | None = option(
            None, "height and width to bring images to; None for those of the environment", at_least(1)
        )
        stack: int = option(1, "latest frames that an observation is made of", at_least(1))
        time_limit: int | None = option(
            None, "steps after which an episode is cut off; None for the environment's own limit", at_least(1)
        )
        success: float | None = option(
            None, "return from which on an episode is a success; None for what the environment says"
        )
        metric: Literal["return", "success"] = option("return", "the figure that R is made of")
        blind: bool = option(False, "make all images black: what can be done without seeing")

    default_components = {"base": "combined", "side": "combined"}
    recipe = {
        "epochs": 1.0,
        "batch_size": 256,
        "lr": 1e-3,
        "schedule": "linear",
        "warmup": 0.0,
        "adam_eps": 1e-5,
        "grad_clip": 0.5,
        "device.precision": "fp32",
    }

    def __init__(self, config: Config, seed: int) -> None:
        self._config = config
        try:
            arguments = json.loads(config.arguments)
        except ValueError as error:
            raise OptionError(f"--env.arguments {config.arguments}: {error}") from error
        if not isinstance(arguments, dict):
            raise OptionError(f'--env.arguments {config.arguments}: give a table such as {{"size": 6}}')
        ids = [id.strip() for id in config.ids.split(",") if id.strip()]
        if not ids:
            raise OptionError("--env.ids is empty; name an environment, such as CartPole-v1")
        made = attrs.asdict(config, filter=lambda field, _: field.name in attrs.fields_dict(EnvSpec))
        self._recipes = [EnvSpec(**{**made, "id": id, "arguments": arguments}) for id in ids]
        self._looks = [_look(recipe) for recipe in self._recipes]
        self.inputs = self._looks[0].inputs
        for recipe, look in zip(self._recipes, self._looks, strict=True):
            if look.inputs != self.inputs:
                raise DataError(
                    f"the environments of a stream must have inputs of one shape: {ids[0]} has {self.inputs} and "
                    f"{recipe.id} {look.inputs}; "
                    "--env.size brings images to one size, --env.grey to one channel, --env.inputs keeps some of them"
                )
        if config.blind and not any(len(shape) == 3 for shape in self.inputs.values()):
            raise OptionError(f"--env.blind: {ids[0]} gives no image, but {self.inputs}")

    def tasks(self) -> Sequence[GymTask]:
        """One for each id."""
        pairs = zip(self._recipes, self._looks, strict=True)
        return [
            GymTask(f"t{number}", recipe, look, self._config) for number, (recipe, look) in enumerate(pairs)
        ]


@attrs.frozen
class EnvInfo:
    """What is known of an environment once it was made."""

    inputs: InputShapes
    policy: Policy
    experts: tuple[str, ...]
    versions: Mapping[str, str]


class GymTask(RolloutTask):
    """One Gymnasium environment."""

    options: Gym.Config

    def __init__(self, id: str, recipe: EnvSpec, look: EnvInfo, config: Gym.Config) -> None:
        unit = 1.0 if is_minigrid(recipe.id) and recipe.view == "symbols" else BYTE
        units = {name: unit for name, shape in look.inputs.items() if len(shape) == 3}
        super().__init__(id, recipe.id, look.inputs, units, look.policy, config)
        self.metric, self.experts = config.metric, look.experts
        self._recipe, self._versions = recipe, look.versions

    def make_vector_env(self, count: int) -> VectorEnv:
        makers, config = [partial(make, self._recipe, number) for number in range(count)], self.options
        return GymWorlds(
            makers, self._recipe.id, config.stack > 1, config.processes, config.timeout, config.blind
        )

    def expert(self, name: str) -> Expert:
        """BabyAI's bot, in its levels.

        Raises:
            OptionError: the environment would be in a process of its own, where the bot cannot see it.
        """
        if self.options.processes:
            raise OptionError(
                "the expert 'bot' looks into the environment, which has to be in this process: leave out --env.processes"
            )
        return Bot()

    def versions(self) -> Mapping[str, str]:
        return self._versions


def _look(recipe: EnvSpec) -> EnvInfo:
    """Input shapes, policy and experts of an environment.

    Raises:
        DataError: it is not there or cannot be made.
    """
    try:
        env: gymnasium.Env[Any, Any] = make(recipe)
    except Exception as error:  # an environment may raise anything
        lost = error.name if isinstance(error, ModuleNotFoundError) else None
        if lost in INSTALL:
            raise DataError(f"environment {recipe.id} needs '{lost}': {INSTALL[lost]}") from error
        raise DataError(f"environment {recipe.id} cannot be made: {type(error).__name__}: {error}") from error
    try:
        shapes = shapes_of(env.observation_space, recipe.stack > 1)
        experts = (BOT,) if is_babyai(env) else ()
        return EnvInfo(shapes, policy_of(env.action_space, recipe.id), experts, versions_of(env))
    finally:
        env.close()
