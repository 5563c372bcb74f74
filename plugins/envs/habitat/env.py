"""Env 'habitat': navigation in habitat-lab as a stream of tasks, trained by PPO."""

# ruff: noqa: E402 - the modules below need the libraries of habitat

from __future__ import annotations

import copy
import importlib.util
import multiprocessing
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib import metadata
from typing import Any, ClassVar, Literal, Self

import attrs
import numpy as np
import torch
from torch import Tensor

from sidetune_core.api import PluginError

if importlib.util.find_spec("habitat") is None:
    raise PluginError(
        "needs habitat-lab, in an environment of its own: python -m venv habitat && "
        ". habitat/bin/activate && pip install -e '.[habitat]' -c constraints-habitat.txt; "
        "see docs/habitat.md"
    )

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
    ORIGINAL,
    Categorical,
    Observations,
    RenderedVectorEnv,
    RolloutConfig,
    RolloutTask,
    VectorEnv,
)

from ..gymnasium.vector_env import GymVectorEnv, shapes_of
from .make import EnvMaker, InspectionError, inspect_env
from .policy import HabitatHandler
from .spec import EnvInfo, EnvSpec

MAX_BYTE = 255.0
START_METHOD: Literal["spawn", "forkserver"] = (
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
"""A fork server imports habitat once, which takes seconds."""
DOWNLOAD = (
    "python -m habitat_sim.utils.datasets_download --uids habitat_test_scenes habitat_test_pointnav_dataset "
    "--data-path data"
)
INSTALL_SIMULATOR = (
    "Install habitat-sim, which only conda has: conda install habitat-sim headless -c conda-forge -c "
    "aihabitat. Or use another simulator with --env.imports, as examples/habitat-rooms does"
)


ORIGINAL_SETTING: Mapping[str, Any] = {
    "inputs": ("image", "goal", "map"),
    "frame_stack": 4,
    "tile": 16,
    "oracle_stop": True,
    "map_pool": 3,
    "map_clip_goal": True,
}
"""Inputs and map of the side-tuning paper's navigation in Gibson."""

ORIGINAL_REWARD = ("habitat.task.success_reward=10",)
"""Its override of the config, before those of the user."""


def _packages_of(overrides: Iterable[str]) -> list[str]:
    """The overrides with which Hydra would search an imported package for configs."""
    return [entry for entry in overrides if "pkg:" in entry]


class Habitat(TaskStream):
    """Point-goal navigation (Anderson et al., On Evaluation of Embodied Navigation Agents, 2018) through
    habitat-lab.

    Habitat's own config defines simulator, sensors, measurements and reward: ``--env.config`` and
    ``--env.overrides``. Every sensor in it can be an input: ``rgb`` as ``image`` (frame-stack * 3, H, W) in
    [0, 1], other images as (frame-stack * C, H, W), vectors as (frame-stack * C,). ``goal`` is the cosine and
    the sine of the angle to the goal, positive to the left, and its distance in metres: (frame-stack * 3,),
    or with ``tile`` as constant planes (frame-stack * 3, tile, tile), the size of a base's encoding. ``map``
    (frame-stack * 3, size, size) in [0, 1] is an egocentric map, seen from above with the agent in the
    centre, facing up: visited cells, the goal, and with ``--env.map depth`` obstacles and free floor; 0.5 is
    unknown. Frames before the episode are zero.

    Every environment runs in its own process and trains in its own subset of the scenes. Evaluation plays
    ``eval-episodes`` of the dataset's split ``split``, each once. The metrics are habitat's measurements at
    the end of an episode: success, SPL, distance to the goal and whatever else the config has.

    ``--env.preset original`` has the inputs, the map, the reward and the PPO with replay of the side-tuning
    paper; the rest of habitat's default reward is the same, the decrease of the distance to the goal minus
    0.01 per step. docs/habitat.md has what still differs.

    Raises:
        DataError: config, dataset or simulator cannot be loaded, or tasks differ in their inputs or actions.
        OptionError: options do not fit together.
        PluginError: habitat-sim is not installed.
    """

    @attrs.frozen
    class Config(RolloutConfig):
        """Options of `Habitat`."""

        former_options: ClassVar[Mapping[str, Renamed]] = {
            **RolloutConfig.former_options,
            "tasks": Renamed("task-overrides", separator=";"),
            "stack": Renamed("frame-stack"),
            "blind": Renamed("mask-images"),
        }
        presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"original": {**ORIGINAL, **ORIGINAL_SETTING}}

        config: str = option("pointnav_habitat_test.yaml", "a config file of habitat-lab, or your own")
        overrides: tuple[str, ...] = option(
            (), "overrides of the config, such as habitat.simulator.turn_angle=30", imports=_packages_of
        )
        task_overrides: tuple[str, ...] = option(
            (),
            "further overrides, one entry for each task, with spaces in between; empty for one task",
            imports=_packages_of,
        )
        imports: tuple[str, ...] = option(
            (),
            "modules to import before habitat, such as those that register a simulator or a dataset",
            imports=list,
        )
        split: str = option("val", "evaluation split of the dataset; the config has the training split")
        eval_episodes: int = option(
            0, "number of evaluation episodes, spread evenly over the split; 0 for all", at_least(0)
        )
        inputs: tuple[str, ...] = option(
            ("image", "goal"), "inputs: image, goal, map, and the names of other sensors"
        )
        frame_stack: int = option(1, "number of stacked frames", at_least(1))
        tile: int | None = option(
            None, "side of the planes that repeat the goal's values; None for a vector", at_least(1)
        )
        map: Literal["visited", "depth"] = option(
            "visited", "content of the map besides the goal: visited cells, or also obstacles seen by depth"
        )
        map_size: int = option(84, "side of the map in cells", at_least(2))
        map_metres: float = option(22.0, "side of the map in metres", more_than(0))
        map_pool: int = option(
            1, "side in cells of the window whose largest value each cell of the map has, odd", at_least(1)
        )
        map_clip_goal: bool = option(False, "draw a goal beyond the map at its edge, and not leave it out")
        oracle_stop: bool = option(
            False, "end the episode within the success radius and remove STOP from the action space"
        )
        mask_images: bool = option(False, "zero the images (no-vision baseline)")
        timeout: float = option(300.0, "seconds that a step or loading a scene may take", more_than(0))
        metric: Literal["spl", "success", "return"] = option("spl", "the metric in R")

    recipe = {
        "epochs": 1.0,
        "batch_size": 256,
        "lr": 2.5e-4,
        "grad_clip": 0.5,
        "device.precision": "fp32",
        "learner.sidetune.begin": "base-linear",  # docs/habitat.md#how-a-side-begins
    }
    default_components = {"base": "conv", "side": "conv", "merger": "alpha"}

    def __init__(self, config: Config, seed: int) -> None:
        if not config.inputs:
            raise OptionError("--env.inputs is empty; name at least one, such as image")
        self._preset_note = config.preset_note()
        self._config = config = config.with_preset()
        entries = [entry for entry in config.task_overrides if entry.strip()] or [""]
        self._titles = entries if len(entries) > 1 else [config.config]
        of_preset = ORIGINAL_REWARD if config.preset == "original" else ()
        self._specs = [
            EnvSpec.from_config(
                config, (*of_preset, *_split_overrides(config.overrides), *_split_overrides([entry]))
            )
            for entry in entries
        ]
        self._infos = [_inspect(spec) for spec in self._specs]
        first = self._infos[0]
        self.inputs = shapes_of(first.observations, config.frame_stack > 1)
        for title, info in zip(self._titles, self._infos, strict=True):
            if (info.observations, info.actions) != (first.observations, first.actions):
                raise DataError(
                    f"the tasks of a stream must have inputs and actions of one shape: {self._titles[0]} has "
                    f"{first.observations} and {first.actions}, and {title} {info.observations} and "
                    f"{info.actions}"
                )

    def tasks(self) -> Sequence[HabitatTask]:
        """One, or one for each entry of ``--env.task-overrides``."""
        if self._preset_note:
            self.info(self._preset_note)
        rows = enumerate(zip(self._titles, self._specs, self._infos, strict=True))
        return [
            HabitatTask(f"t{number}", title, spec, info, self._config) for number, (title, spec, info) in rows
        ]

    @classmethod
    def handler(cls, card: TaskCard) -> TaskHandler:
        """Of observations and actions of habitat."""
        return HabitatHandler(card)


class HabitatTask(RolloutTask):
    """Navigation with one config."""

    options: Habitat.Config
    experts = ("shortest-path",)

    def __init__(self, id: str, title: str, spec: EnvSpec, info: EnvInfo, config: Habitat.Config) -> None:
        inputs = shapes_of(info.observations, config.frame_stack > 1)
        units = {name: MAX_BYTE for name, space in info.observations.items() if space.dtype == np.uint8}
        policy = Categorical([int(info.actions.n)])
        count = min(config.eval_episodes or info.episodes, info.episodes)
        super().__init__(id, title, inputs, units, policy, attrs.evolve(config, eval_episodes=count))
        self.metric, self.time_limit = config.metric, info.time_limit
        self._spec, self._info = spec, info

    def make_vector_env(self, count: int) -> VectorEnv:
        """Environment k trains in every `count`-th scene, or in one scene if there are fewer scenes than
        environments."""
        scenes, spec = self._info.scenes, attrs.evolve(self._spec, split="")
        subsets = [scenes[k::count] or (scenes[k % len(scenes)],) for k in range(count)]
        return self._open([attrs.evolve(spec, scenes=subset) for subset in subsets])

    def make_test_vector_env(self, count: int) -> VectorEnv:
        """Each environment plays its part of the episodes once, then starts over."""
        return self._open_test(count, self._spec)

    def make_rendered_vector_env(self, count: int) -> RenderedVectorEnv:
        """Frames are the images of sensor ``rgb``, or else the input ``map``."""
        if not self._info.is_shown:
            raise OptionError(
                f"there is no video of {self.title}: its config has no sensor 'rgb', and --env.inputs has "
                "no 'map'"
            )
        return self._open_test(count, attrs.evolve(self._spec, rendered=True))

    def limited(self, max_steps: int) -> Self:
        """This task with a smaller time limit."""
        task = copy.copy(self)
        task.time_limit = min(max_steps, self._info.time_limit)
        task._spec = attrs.evolve(self._spec, time_limit=task.time_limit)
        return task

    def card(self) -> Mapping[str, Any]:
        """See `RolloutTask.card`, and `HabitatHandler`."""
        return {
            **super().card(),
            "sensors": {name: attrs.asdict(sensor) for name, sensor in self._info.sensors.items()},
            "action_names": [*self._info.action_names],
            "tile": self.options.tile,
            "mask_images": self.options.mask_images,
            "frame_stack": self.options.frame_stack,
        }

    def _open_test(self, count: int, spec: EnvSpec) -> GymVectorEnv:
        total = self.options.eval_episodes
        indices = [number * self._info.episodes // total for number in range(total)]
        parts = [tuple(map(int, part)) for part in np.array_split(indices, count)]
        return self._open([attrs.evolve(spec, episodes=part) for part in parts])

    def expert(self, name: str) -> ShortestPath:
        """The simulator's shortest-path follower."""
        return ShortestPath()

    def versions(self) -> Mapping[str, str]:
        """Of habitat-lab, and of habitat-sim if it is installed."""
        versions = {"habitat-lab": metadata.version("habitat-lab")}
        with suppress(metadata.PackageNotFoundError):
            versions["habitat-sim"] = metadata.version("habitat-sim")
        return versions

    def _open(self, specs: Sequence[EnvSpec]) -> GymVectorEnv:
        return GymVectorEnv(
            [EnvMaker(spec, self._info) for spec in specs],
            self.title,
            stacked=self.options.frame_stack > 1,
            processes=True,
            timeout=self.options.timeout,
            context=START_METHOD,
        )


class ShortestPath:
    """`Expert` that follows the shortest path to the goal and stops there, if the simulator finds one."""

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        """See `Expert`."""
        assert isinstance(vector_env, GymVectorEnv)
        self._vector_env = vector_env

    def act(self, observations: Observations) -> Tensor | None:
        """See `Expert`; None if there is no path."""
        (action,) = self._vector_env.call("next_action")
        return None if action is None else torch.tensor([[float(action)]])


def _inspect(spec: EnvSpec) -> EnvInfo:
    """Properties of an environment, found by creating it in another process.

    Raises:
        DataError: it cannot be created.
        PluginError: habitat-sim is not installed.
    """
    context = multiprocessing.get_context(START_METHOD)
    context.set_forkserver_preload(_preloaded_modules(spec))
    with ProcessPoolExecutor(1, context) as pool:
        try:
            result = pool.submit(inspect_env, spec).result()
        except BrokenProcessPool as error:
            raise DataError(
                f"{spec.config}: the simulator ended its process; see its output above"
            ) from error
    if isinstance(result, EnvInfo):
        return result
    if result.missing_module in ("habitat_sim", "magnum"):
        raise PluginError(f"env 'habitat' needs '{result.missing_module}'. {INSTALL_SIMULATOR}")
    raise DataError(_message(spec, result))


def _preloaded_modules(spec: EnvSpec) -> list[str]:
    """Modules that the fork server imports for all environments; without habitat-sim, `nav` could be imported
    only in part."""
    quiet = f"{__package__}.quiet"
    if spec.imports:
        return [quiet, *spec.imports]
    has_simulator = importlib.util.find_spec("habitat_sim") is not None
    return [quiet, f"{__package__}.nav"] if has_simulator else [quiet]


def _message(spec: EnvSpec, error: InspectionError) -> str:
    message = f"--env.config {spec.config}: {error.type}: {error.message}"
    if error.missing_module:
        return f"{message}. Modules of --env.imports must be installed or in the current folder"
    if error.type == "FileNotFoundError":
        return (
            f"{message}. The config has the dataset's path (habitat.dataset.data_path), relative to the "
            f"current folder; to download habitat's test dataset: {DOWNLOAD}"
        )
    return message


OVERRIDE_START = r"(?:[~+\w./@]+=|~[\w./@]+\s*(?:[,\s]|$))"


def _split_overrides(entries: Sequence[str]) -> tuple[str, ...]:
    """Single overrides, from entries that may have several of them, separated by spaces or commas.

    An override begins with a name and ``=``, or with ``~`` and a name: lists of scenes have commas too.
    """
    parts = re.split(rf"[,\s]\s*(?={OVERRIDE_START})", ",".join(entries))
    return tuple(part.strip() for part in parts if part.strip())
