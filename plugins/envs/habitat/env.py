"""Navigation in habitat-lab as a stream of tasks, learnt by PPO."""

from __future__ import annotations

import importlib.util
import multiprocessing
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib import metadata
from typing import Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from sidetune_core.api import DataError, OptionError, PluginError, TaskStream, at_least, more_than, option
from sidetune_core.rl import Categorical, Observations, RolloutOptions, RolloutTask, VectorEnv

from ..gymnasium.vector_env import GymWorlds, shapes_of
from .make import Maker, Problem, look
from .recipe import EnvInfo, EnvSpec

if importlib.util.find_spec("habitat") is None:
    raise ModuleNotFoundError("No module named 'habitat'", name="habitat")

BYTE = 255.0
CONTEXT: Literal["spawn", "forkserver"] = (
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
"""How processes begin: from a server that has imported habitat, which takes seconds."""
GET = "python -m habitat_sim.utils.datasets_download --uids habitat_test_scenes habitat_test_pointnav_dataset --data-path data"
SIMULATOR = (
    "Install habitat-sim, which is on no package index but conda's: conda install habitat-sim headless -c conda-forge -c aihabitat; or "
    "bring another simulator with --env.imports, as examples/habitat-rooms does"
)


class Habitat(TaskStream):
    """Point-goal navigation (Anderson et al., On Evaluation of Embodied Navigation Agents, 2018) through habitat-lab.

    What is simulated, sensed, measured and rewarded stands in habitat's own config: ``--env.config`` and ``--env.overrides``. Every sensor
    in it can be an input: ``rgb`` as ``image`` (stack * 3, H, W) in [0, 1], other images as (stack * C, H, W), vectors as (stack * C,).
    ``goal`` is the cosine and the sine of the angle to the goal, to the left, and its distance in metres: (stack * 3,), or with ``tile``
    as planes (stack * 3, tile, tile), the size of a base's encoding. ``map`` (stack * 3, size, size) in [0, 1] is what the agent has found
    out, seen from above, with itself in the middle and looking upwards: where it has been, the goal, and with ``--env.map depth``
    obstacles and free floor; 0.5 is unknown. A stack is zero where it reaches back before the episode.

    Every environment has a process of its own, and trains in its share of the scenes. Evaluation plays ``episodes`` of the dataset's split
    ``split``, each once. The figures are those of habitat's measures at the end of an episode: success, SPL, distance to the goal and
    whatever else the config names.

    The setting of the original experiments: ``--env.inputs image,goal,map --env.stack 4 --env.tile 16 --env.oracle-stop --env.evaluate
    sample --env.overrides habitat.task.success_reward=10``, for habitat's own reward is otherwise the same, the distance gained and -0.01
    for each step.

    Raises:
        DataError: the config, the dataset or the simulator cannot be had, or tasks have other inputs or actions than the first.
        OptionError: options do not fit.
        PluginError: habitat-sim is missing.
    """

    @attrs.frozen
    class Config(RolloutOptions):
        """Options of `Habitat`."""

        config: str = option("pointnav_habitat_test.yaml", "a config file of habitat-lab, or of yours")
        overrides: str = option(
            "", "changes to the config, separated by commas, such as habitat.simulator.turn_angle=30"
        )
        tasks: str = option(
            "", "more changes, of each task of a stream, separated by semicolons; empty for one task"
        )
        imports: str = option(
            "",
            "modules to import before habitat, separated by commas: those that register a simulator or a dataset",
        )
        split: str = option(
            "val", "split of the dataset that is evaluated on; the config names that which is trained on"
        )
        episodes: int = option(
            0, "episodes of an evaluation, spread evenly over that split; 0 for all of it", at_least(0)
        )
        inputs: str = option(
            "image,goal", "inputs, separated by commas: image, goal, map, and the names of other sensors"
        )
        stack: int = option(1, "latest frames that an observation is made of", at_least(1))
        tile: int | None = option(
            None, "height and width of planes that the goal's numbers fill; None for a vector", at_least(1)
        )
        map: Literal["visited", "depth"] = option(
            "visited", "what is on the map besides the goal: the way so far, or depth too"
        )
        map_size: int = option(84, "height and width of the map", at_least(2))
        map_metres: float = option(22.0, "length of its sides in metres", more_than(0))
        oracle_stop: bool = option(
            False,
            "stop for the agent as soon as it is near enough to the goal, and take that action away from it",
        )
        blind: bool = option(False, "make all images black: what can be done without seeing")
        timeout: float = option(300.0, "seconds that a step or the loading of a scene may take", more_than(0))
        metric: Literal["spl", "success", "return"] = option("spl", "the figure that R is made of")

    recipe = {"epochs": 1.0, "batch_size": 256, "lr": 2.5e-4, "grad_clip": 0.5, "device.precision": "fp32"}
    default_components = {"base": "conv", "side": "conv", "merger": "alpha"}

    def __init__(self, config: Config, seed: int) -> None:
        inputs = _words(config.inputs)
        if not inputs:
            raise OptionError("--env.inputs is empty; name some, such as image,goal")
        made = attrs.asdict(config, filter=lambda field, _: field.name in attrs.fields_dict(EnvSpec))
        made |= {"imports": _words(config.imports), "inputs": inputs}
        changes = [text.strip() for text in config.tasks.split(";") if text.strip()] or [""]
        self._titles = changes if len(changes) > 1 else [config.config]
        self._recipes = [
            EnvSpec(**{**made, "overrides": (*_changes(config.overrides), *_changes(text))})
            for text in changes
        ]
        self._looks = [_look(recipe) for recipe in self._recipes]
        self._config = config
        first = self._looks[0]
        self.inputs = shapes_of(first.observations, config.stack > 1)
        for title, one in zip(self._titles, self._looks, strict=True):
            if (one.observations, one.actions) != (first.observations, first.actions):
                raise DataError(
                    f"the tasks of a stream must have inputs and actions of one shape: {self._titles[0]} has {first.observations} and "
                    f"{first.actions}, and {title} {one.observations} and {one.actions}"
                )

    def tasks(self) -> Sequence[HabitatTask]:
        """One, or one for each part of ``--env.tasks``."""
        rows = enumerate(zip(self._titles, self._recipes, self._looks, strict=True))
        return [HabitatTask(f"t{number}", *row, self._config) for number, row in rows]


class HabitatTask(RolloutTask):
    """Navigation by one config."""

    options: Habitat.Config
    experts = ("shortest-path",)

    def __init__(self, id: str, title: str, recipe: EnvSpec, look: EnvInfo, config: Habitat.Config) -> None:
        inputs = shapes_of(look.observations, config.stack > 1)
        units = {name: BYTE for name, space in look.observations.items() if space.dtype == np.uint8}
        count = min(config.episodes or look.episodes, look.episodes)
        super().__init__(
            id, title, inputs, units, Categorical([int(look.actions.n)]), attrs.evolve(config, episodes=count)
        )
        self.metric = config.metric
        self._recipe, self._look = recipe, look

    def make_vector_env(self, count: int) -> VectorEnv:
        """Each trains in every `count`-th scene, or where there are fewer of them than environments, in one."""
        scenes, train = self._look.scenes, attrs.evolve(self._recipe, split="")
        return self._open(
            [attrs.evolve(train, scenes=scenes[k::count] or (scenes[k % len(scenes)],)) for k in range(count)]
        )

    def make_test_vector_env(self, count: int) -> VectorEnv:
        """Each plays its share of the episodes, once, and begins again."""
        places = [
            number * self._look.episodes // self.options.episodes for number in range(self.options.episodes)
        ]
        return self._open(
            [
                attrs.evolve(self._recipe, places=tuple(map(int, share)))
                for share in np.array_split(places, count)
            ]
        )

    def expert(self, name: str) -> ShortestPath:
        """The simulator's follower of shortest paths."""
        return ShortestPath()

    def versions(self) -> Mapping[str, str]:
        """Of habitat-lab, and of habitat-sim where that is installed."""
        found = {"habitat-lab": metadata.version("habitat-lab")}
        with suppress(metadata.PackageNotFoundError):
            found["habitat-sim"] = metadata.version("habitat-sim")
        return found

    def _open(self, recipes: Sequence[EnvSpec]) -> VectorEnv:
        makers = [Maker(recipe, self._look) for recipe in recipes]
        return GymWorlds(
            makers,
            self.title,
            self.options.stack > 1,
            processes=True,
            timeout=self.options.timeout,
            context=CONTEXT,
        )


class ShortestPath:
    """Goes the shortest way and stops, as far as the simulator's follower finds one."""

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        """An episode has begun in `vector_env`, of which there is one."""
        assert isinstance(vector_env, GymWorlds)
        self._vector_env = vector_env

    def act(self, observations: Observations) -> Tensor | None:
        """What to do now, (1, 1); None if no way is known."""
        (action,) = self._vector_env.call("next_action")
        return None if action is None else torch.tensor([[float(action)]])


def _look(recipe: EnvSpec) -> EnvInfo:
    """What a process finds that makes such an environment.

    Raises:
        DataError: it cannot be made.
        PluginError: habitat-sim is missing.
    """
    context = multiprocessing.get_context(CONTEXT)
    context.set_forkserver_preload(_preloaded(recipe))
    with ProcessPoolExecutor(1, context) as pool:
        try:
            found = pool.submit(look, recipe).result()
        except BrokenProcessPool as error:
            raise DataError(
                f"{recipe.config}: the simulator has ended its process; what it wrote above may say why"
            ) from error
    if isinstance(found, EnvInfo):
        return found
    if found.lost in ("habitat_sim", "magnum"):
        raise PluginError(f"env 'habitat' needs '{found.lost}'. {SIMULATOR}")
    raise DataError(_said(recipe, found))


def _preloaded(recipe: EnvSpec) -> list[str]:
    """What processes of environments have in common and need not each import. Half an import of habitat would spoil all of them."""
    whole = importlib.util.find_spec("habitat_sim") is not None
    return [
        f"{__package__}.quiet",
        *(recipe.imports or ([f"{__package__}.nav"] if whole else [])),
    ]


def _said(recipe: EnvSpec, problem: Problem) -> str:
    told = f"--env.config {recipe.config}: {problem.kind}: {problem.message}"
    if problem.lost:
        return f"{told}. --env.imports names modules that are installed or in the current folder"
    if problem.kind == "FileNotFoundError":
        return f"{told}. Datasets are where the config says (habitat.dataset.data_path), from the current folder on; habitat's own: {GET}"
    return told


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _changes(text: str) -> tuple[str, ...]:
    """Changes of a config, at commas that a name and ``=`` follow, or ``~`` and a name: a list of scenes has commas too."""
    return tuple(
        one.strip() for one in re.split(r",(?=\s*(?:[~+\w./@]+=|~[\w./@]+\s*(?:,|$)))", text) if one.strip()
    )
