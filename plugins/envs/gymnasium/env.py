"""Env 'gym': Gymnasium environments as a stream of tasks, trained by PPO."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

import attrs

from sidetune_core.api import (
    DataError,
    OptionError,
    Renamed,
    TaskCard,
    TaskHandler,
    TaskStream,
    at_least,
    more_than,
    option,
)
from sidetune_core.rl import (
    MAX_EVAL_STEPS,
    Expert,
    RenderedVectorEnv,
    RolloutConfig,
    RolloutTask,
    VectorEnv,
)

from .babyai_bot import Bot
from .inspection import EnvInfo, check_rendering, inspect_env
from .make import EnvSpec, is_minigrid, make
from .missions import MAX_VOCABULARY
from .names import modules_of, modules_of_all_arguments, modules_of_arguments
from .notices import notices
from .policy import GymHandler, card_values
from .vector_env import GymVectorEnv


class Gym(TaskStream):
    """Any Gymnasium environments, one task for each id, in their order.

    Images are ``image`` (frame-stack * C, H, W) in [0, 1], or have the name that the environment gives them;
    vectors are (frame-stack * C,), called ``vector`` if there is nothing else; discrete observations are
    one-hot vectors. Members of nested Dict and Tuple spaces have dotted names (``inner.goal``, ``1``); text
    and sequences are left out, and listed. All tasks must have inputs of one shape. MiniGrid's 7 x 7 view is
    one-hot symbols (20, 7, 7), or rendered in 28 x 28 pixels. Bounded Box actions are [-1, 1] for the policy.

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
            "ids of environments; module:Id-v0 imports a module first, which may be in the current folder",
            imports=modules_of,
        )
        arguments: str = option(
            "{}",
            "keyword arguments of gymnasium.make for all environments, as JSON",
            imports=modules_of_arguments,
        )
        env_args: tuple[str, ...] = option(
            (),
            "keyword arguments of each id, a JSON object for each in their order; they add to those of "
            "--env.arguments",
            imports=modules_of_all_arguments,
        )
        wrappers: tuple[str, ...] = option(
            (),
            "wrappers module:Wrapper around each environment, the first one innermost; each is called with "
            "the environment alone",
            imports=list,
        )
        processes: bool = option(
            False, "run each environment in its own process, which pays off if a step takes over 0.1 ms"
        )
        timeout: float = option(
            60.0, "seconds that a step of an environment in its own process may take", more_than(0)
        )
        inputs: tuple[str, ...] = option((), "names of the inputs to keep; empty for all")
        spaces: Literal["all", "flat"] = option(
            "all",
            "observations that are read: members of nested Dict and Tuple spaces, and images of any layout; "
            "or flat, as in version 0.1: members of a Dict, and as images (H, W, C) bytes alone",
            former="flat",
        )
        action_masks: bool = option(
            True,
            "give invalid actions no probability, where the environment says which are valid: in "
            "info['action_mask'], in the observation 'action_mask', or by a method action_masks()",
            former=False,
        )
        missions: bool = option(
            False, "read the text of observations, such as BabyAI's missions, as the input 'mission'"
        )
        vocabulary: tuple[str, ...] = option(
            (), "words of missions, of which others are unknown; empty for those of BabyAI and MiniGrid"
        )
        mission_length: int = option(48, "longest mission in words; longer ones are cut off", at_least(1))
        rescale_actions: bool = option(
            True,
            "rescale the bounds of Box actions to [-1, 1] for the policy; otherwise its actions are clipped",
            former=False,
        )
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
        "learner.sidetune.begin": "base-linear",  # docs/reinforcement-learning.md#how-a-side-begins
    }

    def __init__(self, config: Config, seed: int) -> None:
        self._preset_note = config.preset_note()
        self._config = config = config.with_preset()
        if not config.ids:
            raise OptionError("--env.ids is empty; name an environment, such as CartPole-v1")
        if len(config.vocabulary) > MAX_VOCABULARY:
            raise OptionError(
                f"--env.vocabulary has {len(config.vocabulary)} words, and {MAX_VOCABULARY} are possible"
            )
        arguments = _arguments_of_each(config)
        self._specs = [
            EnvSpec.from_config(id, config, own) for id, own in zip(config.ids, arguments, strict=True)
        ]
        self._titles = _titles(config)
        self._infos = [inspect_env(spec, config.action_masks) for spec in self._specs]
        self._specs = [
            attrs.evolve(spec, action_masks=bool(info.mask_source))
            for spec, info in zip(self._specs, self._infos, strict=True)
        ]
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
        by_title = dict(zip(self._titles, self._infos, strict=True))
        for line in notices(by_title, MAX_EVAL_STEPS, self._config.rescale_actions):
            self.info(line)
        if self._preset_note:
            self.info(self._preset_note)
        rows = enumerate(zip(self._titles, self._specs, self._infos, strict=True))
        return [
            GymTask(f"t{number}", title, spec, info, self._config) for number, (title, spec, info) in rows
        ]

    @classmethod
    def handler(cls, card: TaskCard) -> TaskHandler:
        """Of observations and actions of the plain environment."""
        return GymHandler(card)


class GymTask(RolloutTask):
    """One Gymnasium environment."""

    options: Gym.Config

    def __init__(self, id: str, title: str, spec: EnvSpec, info: EnvInfo, config: Gym.Config) -> None:
        units = {name: info.units[name] for name, shape in info.inputs.items() if len(shape) == 3}
        super().__init__(id, title, info.inputs, units, info.policy, config)
        self.metric, self.experts = config.metric, info.experts
        self.time_limit = info.time_limit
        self._spec, self._info = spec, info

    def make_vector_env(self, count: int) -> VectorEnv:
        return self._open(count)

    def make_rendered_vector_env(self, count: int) -> RenderedVectorEnv:
        task = copy.copy(self)
        task._spec = attrs.evolve(self._spec, rendered=True)
        check_rendering(task._spec)
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
                self._spec.conversion,
                grid_view=config.view if is_minigrid(self._spec.id) else "",
                rescaled=config.rescale_actions,
            ),
            "mask_source": self._info.mask_source,
            "frame_stack": config.frame_stack,
            "mask_images": config.mask_images,
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
            rescale_actions=config.rescale_actions,
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


def _arguments_of_each(config: Gym.Config) -> list[dict[str, Any]]:
    """The keyword arguments of each id.

    Raises:
        OptionError: an option is no JSON object, or there are not as many as ids.
    """
    common = _arguments("--env.arguments", config.arguments)
    if config.env_args and len(config.env_args) != len(config.ids):
        raise OptionError(
            f"--env.env-args has {len(config.env_args)} objects for {len(config.ids)} ids; give one for each "
            "id, {} where there is nothing to set"
        )
    texts = config.env_args or ("{}",) * len(config.ids)
    return [{**common, **_arguments("--env.env-args", text)} for text in texts]


def _arguments(option: str, text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise OptionError(f"{option} {text}: {error}") from error
    if not isinstance(arguments, dict):
        raise OptionError(f'{option} {text}: give a JSON object such as {{"size": 6}}')
    return arguments


def _titles(config: Gym.Config) -> list[str]:
    """The ids, with their own arguments; those that are the same are numbered."""
    own = config.env_args or ("{}",) * len(config.ids)
    titles = [
        id if json.loads(text) == {} else f"{id} {text}" for id, text in zip(config.ids, own, strict=True)
    ]
    earlier = [titles[:number].count(title) for number, title in enumerate(titles)]
    return [
        title + (f" ({count + 1})" if count else "") for title, count in zip(titles, earlier, strict=True)
    ]
