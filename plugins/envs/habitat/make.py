"""Environments of habitat-lab, made in processes of their own: simulators hold a GPU's context, and seed global generators."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
from typing import Any

import attrs
import gymnasium
from gymnasium.wrappers import FrameStackObservation

from ..gymnasium.make import outlive_signals
from .recipe import EnvInfo, EnvSpec

CONFIGS = ("", "benchmark/nav/", "benchmark/nav/pointnav/")
"""Where configs are looked for, below habitat's own folder of them."""

IN_ORDER = {
    "cycle": True,
    "shuffle": False,
    "group_by_scene": False,
    "num_episode_sample": -1,
    "max_scene_repeat_episodes": -1,
    "max_scene_repeat_steps": -1,
}
"""Options of habitat's iterator by which it gives one episode after the other."""


@attrs.frozen
class Problem:
    """Why there is no environment."""

    kind: str
    """Class of the exception."""
    message: str
    lost: str = ""
    """The module that is missing, if that is why."""


@attrs.frozen
class Maker:
    """Makes an environment in another process, and in that of its `owner` an empty one of the same spaces."""

    recipe: EnvSpec
    look: EnvInfo
    owner: int = attrs.field(factory=os.getpid)

    def __call__(self) -> gymnasium.Env[Any, Any]:
        if os.getpid() == self.owner:
            return _Empty(self.look)
        outlive_signals()
        return make(self.recipe, self.look.config)


class _Empty(gymnasium.Env[Any, Any]):
    """Only the spaces of an environment."""

    def __init__(self, look: EnvInfo) -> None:
        self.observation_space, self.action_space = look.observations, look.actions


def make(recipe: EnvSpec, config: bytes) -> gymnasium.Env[Any, Any]:
    """An environment whose observations are tables of images (C, H, W) and vectors (C,), or stacks of those, zero before an episode.

    Args:
        recipe: what is made of habitat's environment.
        config: of habitat, see `EnvInfo.config`.
    """
    prepare(recipe)
    return _open(recipe, pickle.loads(config))


def look(recipe: EnvSpec) -> EnvInfo | Problem:
    """See what there is, by a recipe for the split that is evaluated on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return _look(recipe)
    except Exception as error:  # habitat, a simulator or a dataset may raise anything, and not all of that can be sent to another process
        return Problem(
            type(error).__name__, str(error), (isinstance(error, ModuleNotFoundError) and error.name) or ""
        )


def prepare(recipe: EnvSpec) -> None:
    """Import habitat, and before it the modules that bring simulators and the like, which may be in the current folder."""
    importlib.import_module(".quiet", __package__)
    sys.path.insert(0, os.getcwd())
    for name in recipe.imports:
        importlib.import_module(name)
    importlib.import_module("habitat")


def resolve(recipe: EnvSpec) -> Any:
    """Habitat's config."""
    from habitat.config.default import get_config, get_full_habitat_config_path

    for folder in CONFIGS:
        try:
            path = get_full_habitat_config_path(folder + recipe.config)
        except RuntimeError:
            continue
        return get_config(path, list(recipe.overrides))
    raise FileNotFoundError(
        f"no such file, neither here nor among habitat's configs (such as {CONFIGS[-1]}pointnav_gibson.yaml)"
    )


def _look(recipe: EnvSpec) -> EnvInfo:
    prepare(recipe)
    from habitat.config import read_write
    from habitat.datasets import make_dataset

    config = resolve(recipe)
    whole, dataset = pickle.dumps(config), config.habitat.dataset
    scenes = _scenes(dataset)
    with read_write(config):
        _choose(dataset, recipe)
    episodes = make_dataset(dataset.type, config=dataset).num_episodes
    if not episodes or not scenes:
        raise ValueError(
            f"split {recipe.split} of the dataset has {episodes} episodes, and there are {len(scenes)} scenes to train in"
        )
    env = _open(attrs.evolve(recipe, places=(0,)), config)
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    env.close()
    return EnvInfo(env.observation_space, env.action_space, episodes, scenes, whole)


def _open(recipe: EnvSpec, config: Any) -> gymnasium.Env[Any, Any]:
    from habitat.config import read_write
    from habitat.core.environments import RLTaskEnv
    from habitat.datasets import make_dataset

    from .nav import Nav

    with read_write(config):
        _choose(config.habitat.dataset, recipe)
        if recipe.places is not None:
            config.habitat.environment.iterator_options.update(IN_ORDER)
    dataset = make_dataset(config.habitat.dataset.type, config=config.habitat.dataset)
    if recipe.places is not None:
        there = sorted(dataset.episodes, key=lambda episode: str(episode.scene_id))
        dataset.episodes = [there[place] for place in recipe.places]
    env = Nav(RLTaskEnv(config, dataset), recipe)
    return FrameStackObservation(env, recipe.stack, padding_type="zero") if recipe.stack > 1 else env


def _scenes(dataset: Any) -> tuple[str, ...]:
    """Names of the scenes that a dataset's config has chosen from its split.

    Raises:
        LookupError: no such dataset is registered, or it has no such scene.
    """
    from habitat.config import read_write
    from habitat.core.dataset import ALL_SCENES_MASK
    from habitat.core.registry import registry

    kind = registry.get_dataset(dataset.type)
    if kind is None:
        raise LookupError(f"no dataset {dataset.type} is registered with habitat")
    whole, named = dataset.copy(), tuple(dataset.content_scenes)
    with read_write(whole):
        whole.content_scenes = [ALL_SCENES_MASK]
    there = tuple(kind.get_scenes_to_load(whole))
    if ALL_SCENES_MASK in named:
        return there
    if unknown := [name for name in named if name not in there]:
        lost = ", ".join(unknown)
        raise LookupError(
            f"split {dataset.split} has no scene {lost} (habitat.dataset.content_scenes); it has {', '.join(there)}"
        )
    return named


def _choose(dataset: Any, recipe: EnvSpec) -> None:
    """Bring a dataset's config to the split and the scenes of a recipe; scenes that it names are those of its own split."""
    from habitat.core.dataset import ALL_SCENES_MASK

    if recipe.split not in ("", dataset.split):
        dataset.split, dataset.content_scenes = recipe.split, [ALL_SCENES_MASK]
    if recipe.scenes:
        dataset.content_scenes = list(recipe.scenes)
