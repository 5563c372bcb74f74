"""Creates environments of habitat-lab in their own processes: simulators hold a GPU context and seed global
generators."""

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

from ..gymnasium.make import KeptFrames, ignore_signals
from .spec import FRAMES_PER_SECOND, EnvInfo, EnvSpec

CONFIG_FOLDERS = ("", "benchmark/nav/", "benchmark/nav/pointnav/")
"""Search path of configs, relative to habitat's config folder."""

SEQUENTIAL = {
    "cycle": True,
    "shuffle": False,
    "group_by_scene": False,
    "num_episode_sample": -1,
    "max_scene_repeat_episodes": -1,
    "max_scene_repeat_steps": -1,
}
"""Options of habitat's episode iterator for the dataset's order."""


@attrs.frozen
class InspectionError:
    """Why an environment could not be created; unlike the exception, it can be pickled."""

    type: str
    """Name of the exception's class."""
    message: str
    missing_module: str = ""


@attrs.frozen
class EnvMaker:
    """Creates an environment in a worker process, and one with the same spaces only in the process of its
    `owner`."""

    spec: EnvSpec
    info: EnvInfo
    owner: int = attrs.field(factory=os.getpid)

    def __call__(self) -> gymnasium.Env[Any, Any]:
        if os.getpid() == self.owner:
            return _SpacesOnly(self.info)
        ignore_signals()
        return make(self.spec, self.info.config)


class _SpacesOnly(gymnasium.Env[Any, Any]):
    """An environment that has spaces and no implementation."""

    def __init__(self, info: EnvInfo) -> None:
        self.observation_space, self.action_space = info.observations, info.actions
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_SECOND}


def make(spec: EnvSpec, config: bytes) -> gymnasium.Env[Any, Any]:
    """An environment whose observations are dictionaries of images (C, H, W) and vectors (C,), or stacks of
    those.

    Args:
        spec: of the environment.
        config: of habitat, see `EnvInfo.config`.
    """
    prepare(spec)
    return _open(spec, pickle.loads(config))


def inspect_env(spec: EnvSpec) -> EnvInfo | InspectionError:
    """Properties of an environment of the evaluation split."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return _inspect(spec)
    except Exception as error:  # habitat, a simulator or a dataset may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        return InspectionError(type(error).__name__, str(error), missing or "")


def prepare(spec: EnvSpec) -> None:
    """Import the requested modules, which may be in the current folder, then habitat."""
    importlib.import_module(".quiet", __package__)
    if spec.imports:  # otherwise a module of the current folder could take the place of an installed one
        sys.path.insert(0, os.getcwd())
    for name in spec.imports:
        importlib.import_module(name)
    importlib.import_module("habitat")


def compose_config(spec: EnvSpec) -> Any:
    """Habitat's config with the overrides."""
    from habitat.config.default import get_config, get_full_habitat_config_path

    for folder in CONFIG_FOLDERS:
        try:
            path = get_full_habitat_config_path(folder + spec.config)
        except RuntimeError:
            continue
        return get_config(path, list(spec.overrides))
    raise FileNotFoundError(
        "no such file, in the current folder or among habitat's configs (such as "
        f"{CONFIG_FOLDERS[-1]}pointnav_gibson.yaml)"
    )


def _inspect(spec: EnvSpec) -> EnvInfo:
    prepare(spec)
    from habitat.config import read_write
    from habitat.datasets import make_dataset

    config = compose_config(spec)
    pickled, dataset = pickle.dumps(config), config.habitat.dataset
    scenes = _scenes(dataset)
    with read_write(config):
        _select(dataset, spec)
    episodes = make_dataset(dataset.type, config=dataset).num_episodes
    if not episodes or not scenes:
        raise ValueError(
            f"split {spec.split} of the dataset has {episodes} episodes, and there are {len(scenes)} "
            "training scenes"
        )
    env = _open(attrs.evolve(spec, episodes=(0,)), config)
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    info = EnvInfo(
        observations=env.observation_space,
        actions=env.action_space,
        episodes=episodes,
        scenes=scenes,
        sensors=env.get_wrapper_attr("sensors")(),
        action_names=env.get_wrapper_attr("action_names")(),
        time_limit=int(config.habitat.environment.max_episode_steps),
        is_shown=env.get_wrapper_attr("is_shown")(),
        config=pickled,
    )
    env.close()
    return info


def _open(spec: EnvSpec, config: Any) -> gymnasium.Env[Any, Any]:
    from habitat.config import read_write
    from habitat.core.environments import RLTaskEnv
    from habitat.datasets import make_dataset

    from .nav import Navigation

    with read_write(config):
        _select(config.habitat.dataset, spec)
        if spec.time_limit is not None:
            config.habitat.environment.max_episode_steps = spec.time_limit
        if spec.episodes is not None:
            config.habitat.environment.iterator_options.update(SEQUENTIAL)
    dataset = make_dataset(config.habitat.dataset.type, config=config.habitat.dataset)
    if spec.episodes is not None:
        by_scene = sorted(dataset.episodes, key=lambda episode: str(episode.scene_id))
        dataset.episodes = [by_scene[index] for index in spec.episodes]
    env: gymnasium.Env[Any, Any] = Navigation(RLTaskEnv(config, dataset), spec)
    if spec.rendered:
        env = KeptFrames(env)
    return FrameStackObservation(env, spec.frame_stack, padding_type="zero") if spec.frame_stack > 1 else env


def _scenes(dataset: Any) -> tuple[str, ...]:
    """Names of the scenes that a dataset's config selects from its split.

    Raises:
        LookupError: there is no such dataset or scene.
    """
    from habitat.config import read_write
    from habitat.core.dataset import ALL_SCENES_MASK
    from habitat.core.registry import registry

    cls = registry.get_dataset(dataset.type)
    if cls is None:
        raise LookupError(f"no dataset {dataset.type} is registered with habitat")
    all_scenes, selected = dataset.copy(), tuple(dataset.content_scenes)
    with read_write(all_scenes):
        all_scenes.content_scenes = [ALL_SCENES_MASK]
    available = tuple(cls.get_scenes_to_load(all_scenes))
    if ALL_SCENES_MASK in selected:
        return available
    if unknown := [name for name in selected if name not in available]:
        raise LookupError(
            f"split {dataset.split} has no scene {', '.join(unknown)} (habitat.dataset.content_scenes); its "
            f"scenes: {', '.join(available)}"
        )
    return selected


def _select(dataset: Any, spec: EnvSpec) -> None:
    """Set split and scenes of a dataset's config; scenes in the config are those of its own split only."""
    from habitat.core.dataset import ALL_SCENES_MASK

    if spec.split not in ("", dataset.split):
        dataset.split, dataset.content_scenes = spec.split, [ALL_SCENES_MASK]
    if spec.scenes:
        dataset.content_scenes = list(spec.scenes)
