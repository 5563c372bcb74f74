"""Env 'gym': Gymnasium environments as a stream of tasks, trained by PPO."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

import attrs
import gymnasium

from sidetune_core.api import (
    DataError,
    InputShapes,
    OptionError,
    Renamed,
    TaskCard,
    TaskHandler,
    TaskStream,
    at_least,
    more_than,
    option,
)
from sidetune_core.rl import Expert, Policy, RenderedVectorEnv, RolloutConfig, RolloutTask, VectorEnv

from .babyai_bot import Bot, is_babyai
from .make import EnvSpec, as_frame, is_minigrid, library_versions, make, make_plain
from .names import modules_of, modules_of_arguments
from .observations import Space
from .policy import GymHandler, card_values
from .vector_env import GymVectorEnv, policy_of, shapes_of

MAX_BYTE = 255.0

BOT = "bot"

INSTALL_RL = "pip install 'sidetune[rl]'"

INSTALL = {
    "minigrid": INSTALL_RL,
    "vizdoom": INSTALL_RL,
    "shimmy": "pip install 'shimmy[gym-v26]', or 'shimmy[gym-v21]' for environments whose step returns four "
    "values; both need NumPy 1, so install them in a separate environment without constraints.txt",
}
"""By missing module."""


class Gym(TaskStream):
    """Any Gymnasium environments, one task for each id, in their order.

    Images are ``image`` (frame-stack * C, H, W) in [0, 1], or have the name that the environment gives them;
    vectors are (frame-stack * C,), called ``vector`` if there is nothing else; discrete observations are
    one-hot vectors; text is dropped. All tasks must have inputs of one shape. MiniGrid's 7 x 7 view is
    one-hot symbols (20, 7, 7), or rendered in 28 x 28 pixels.

    An epoch is ``frames`` steps of all environments together. The metric is the mean return of
    ``eval-episodes`` episodes, the same in every run. An episode is a success if its return is at least
    ``reward-threshold``; without that option, if the environment says so in ``info``; else if it reaches the
    environment's registered reward threshold; else if its return is positive, as in MiniGrid.

    BabyAI's levels (Chevalier-Boisvert et al., ICLR 2019) have an expert ``bot``, for ``sidetune record``.

    An interrupted run resumes at an update, with new episodes.

    Environments of the old gym are wrapped by shimmy: ``--env.ids GymV26Environment-v0 --env.arguments
    '{"env_id": "CartPole-v1"}'`` after ``pip install 'shimmy[gym-v26]'``, and ``GymV21Environment-v0`` with
    ``shimmy[gym-v21]`` for those whose step returns four values. ``{"env_id": "module:Id-v0"}`` imports a
    module first; ``"make_kwargs": {...}`` is passed to gym.make.

    Raises:
        DataError: an environment is not registered, cannot be created, or has other inputs than the first.
        OptionError: an option does not fit an environment.
    """

    @attrs.frozen
    class Config(RolloutConfig):
        """Options of `Gym`."""

        former_options: ClassVar[Mapping[str, Renamed]] = {
            **RolloutConfig.former_options,
            "grey": Renamed("grayscale"),
            "size": Renamed("image-size"),
            "stack": Renamed("frame-stack"),
            "success": Renamed("reward-threshold"),
            "blind": Renamed("mask-images"),
        }

        frames: int = option(
            40_960,
            "steps of all environments in one of --train.epochs, rounded up to whole rollouts",
            at_least(1),
        )
        ids: tuple[str, ...] = option(
            ("MiniGrid-Empty-5x5-v0",),
            "ids of environments; module:Id-v0 imports a module first",
            imports=modules_of,
        )
        arguments: str = option(
            "{}",
            "keyword arguments of gymnasium.make for all environments, as JSON",
            imports=modules_of_arguments,
        )
        processes: bool = option(
            False, "run each environment in its own process, which pays off if a step takes over 0.1 ms"
        )
        timeout: float = option(
            60.0, "seconds that a step of an environment in its own process may take", more_than(0)
        )
        inputs: tuple[str, ...] = option((), "names of the inputs to keep; empty for all")
        view: Literal["symbols", "pixels"] = option(
            "symbols", "MiniGrid's view: one-hot symbols, or rendered in pixels"
        )
        grayscale: bool = option(False, "convert images to grayscale")
        image_size: int | None = option(
            None, "side in pixels of square images; None for the environment's size", at_least(1)
        )
        frame_stack: int = option(1, "number of stacked frames", at_least(1))
        time_limit: int | None = option(
            None, "steps after which an episode is truncated; None for the environment's limit", at_least(1)
        )
        reward_threshold: float | None = option(
            None, "return from which an episode is a success; None for the environment's criterion"
        )
        metric: Literal["return", "success"] = option("return", "the metric in R")
        mask_images: bool = option(False, "zero the images (no-vision baseline)")

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
        if not config.ids:
            raise OptionError("--env.ids is empty; name an environment, such as CartPole-v1")
        self._specs = [EnvSpec.from_config(id, config, _arguments(config.arguments)) for id in config.ids]
        self._infos = [_inspect(spec) for spec in self._specs]
        self.inputs = self._infos[0].inputs
        for spec, info in zip(self._specs, self._infos, strict=True):
            if info.inputs != self.inputs:
                raise DataError(
                    f"the environments of a stream must have inputs of one shape: {config.ids[0]} has "
                    f"{self.inputs} and {spec.id} {info.inputs}. --env.image-size resizes images, "
                    "--env.grayscale gives them one channel, --env.inputs selects inputs"
                )
        if config.mask_images and not any(len(shape) == 3 for shape in self.inputs.values()):
            raise OptionError(f"--env.mask-images: {config.ids[0]} has no image, but {self.inputs}")

    def tasks(self) -> Sequence[GymTask]:
        """One for each id."""
        pairs = enumerate(zip(self._specs, self._infos, strict=True))
        return [GymTask(f"t{number}", spec, info, self._config) for number, (spec, info) in pairs]

    @classmethod
    def handler(cls, card: TaskCard) -> TaskHandler:
        """Of observations and actions of the plain environment."""
        return GymHandler(card)


@attrs.frozen
class EnvInfo:
    """Properties of an environment, found by creating it once."""

    inputs: InputShapes
    policy: Policy
    experts: tuple[str, ...]
    versions: Mapping[str, str]
    raw_observations: Space
    """Of the plain environment."""
    actions: Space
    time_limit: int | None


class GymTask(RolloutTask):
    """One Gymnasium environment."""

    options: Gym.Config

    def __init__(self, id: str, spec: EnvSpec, info: EnvInfo, config: Gym.Config) -> None:
        unit = 1.0 if is_minigrid(spec.id) and spec.view == "symbols" else MAX_BYTE
        units = {name: unit for name, shape in info.inputs.items() if len(shape) == 3}
        super().__init__(id, spec.id, info.inputs, units, info.policy, config)
        self.metric, self.experts = config.metric, info.experts
        self.time_limit = info.time_limit
        self._spec, self._info = spec, info

    def make_vector_env(self, count: int) -> VectorEnv:
        return self._open(count)

    def make_rendered_vector_env(self, count: int) -> RenderedVectorEnv:
        task = copy.copy(self)
        task._spec = attrs.evolve(self._spec, rendered=True)
        _check_rendering(task._spec)
        return task._open(count)

    def limited(self, max_steps: int) -> Self:
        """This task with a smaller time limit."""
        task = copy.copy(self)
        task.time_limit = min(max_steps, self.time_limit or max_steps)
        task._spec = attrs.evolve(self._spec, time_limit=task.time_limit)
        return task

    def card(self) -> Mapping[str, Any]:
        """See `RolloutTask.card`, and `GymHandler`."""
        config = self.options
        return {
            **super().card(),
            **card_values(
                self._info.raw_observations,
                self._info.actions,
                grid_view=config.view if is_minigrid(self._spec.id) else "",
                inputs=config.inputs,
                grayscale=config.grayscale,
                image_size=config.image_size,
                frame_stack=config.frame_stack,
                mask_images=config.mask_images,
            ),
        }

    def _open(self, count: int) -> GymVectorEnv:
        config = self.options
        return GymVectorEnv(
            [partial(make, self._spec, number) for number in range(count)],
            self._spec.id,
            stacked=config.frame_stack > 1,
            processes=config.processes,
            timeout=config.timeout,
            mask_images=config.mask_images,
        )

    def expert(self, name: str) -> Expert:
        """BabyAI's bot, in its levels.

        Raises:
            OptionError: the environment runs in its own process, where the bot cannot read its state.
        """
        if self.options.processes:
            raise OptionError(
                "the expert 'bot' reads the state of the environment in this process: leave out "
                "--env.processes"
            )
        return Bot()

    def versions(self) -> Mapping[str, str]:
        return self._info.versions


def _arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise OptionError(f"--env.arguments {text}: {error}") from error
    if not isinstance(arguments, dict):
        raise OptionError(f'--env.arguments {text}: give a JSON object such as {{"size": 6}}')
    return arguments


def _inspect(spec: EnvSpec) -> EnvInfo:
    """Input shapes, policy and experts of an environment.

    Raises:
        DataError: it is not registered or cannot be created.
    """
    try:
        env: gymnasium.Env[Any, Any] = make(spec)
    except Exception as error:  # an environment may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing in INSTALL:
            raise DataError(f"environment {spec.id} needs '{missing}': {INSTALL[missing]}") from error
        raise DataError(
            f"environment {spec.id} cannot be created: {type(error).__name__}: {error}"
        ) from error
    try:
        shapes = shapes_of(env.observation_space, spec.frame_stack > 1)
        experts = (BOT,) if is_babyai(env) else ()
        return EnvInfo(
            inputs=shapes,
            policy=policy_of(env.action_space, spec.id),
            experts=experts,
            versions=library_versions(env),
            raw_observations=env.get_wrapper_attr("raw_space"),
            actions=env.action_space,
            time_limit=env.spec.max_episode_steps if env.spec is not None else None,
        )
    finally:
        env.close()


def _check_rendering(spec: EnvSpec) -> None:
    """Check that an environment can be rendered, by doing so once.

    Raises:
        OptionError: it cannot.
    """
    try:
        env = make_plain(spec)
        try:
            if "rgb_array" not in (env.metadata.get("render_modes") or ()):
                raise ValueError("it has no render mode rgb_array")
            env.reset(seed=0)
            as_frame(env.render())
        finally:
            env.close()
    except Exception as error:  # an environment may raise anything
        reason = f"{error}".partition("\n")[0]
        raise OptionError(
            f"environment {spec.id} cannot be rendered, so there is no video: {reason}"
        ) from error
