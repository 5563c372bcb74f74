"""Creates one Gymnasium environment with its wrappers.

Worker processes import this module, so it does not import torch.
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import attrs
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import FrameStackObservation
from PIL import Image

LIBRARIES = {
    "MiniGrid-": "minigrid",
    "BabyAI-": "minigrid",
    "Vizdoom": "vizdoom.gymnasium_wrapper",
    "GymV21Environment": "shimmy",
    "GymV26Environment": "shimmy",
}
"""The module that registers the environments, by prefix of their ids; Gymnasium itself imports
``module:Id-v0``."""

GRACE_SECONDS = 30
"""How long a worker process outlives SIGTERM, so that the main process can save a checkpoint."""

VIZDOOM_FOLDER = Path("_vizdoom")

TILE_PIXELS = 4
"""Side of a rendered MiniGrid tile, so that the 7 x 7 view is 28 x 28 pixels."""

NOTE = "environment "
"""Prefix of the exception note that has the index of the environment."""

NUMERIC_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Observation spaces that can be network inputs."""


@attrs.frozen
class EnvSpec:
    """What is needed to create an environment, see the options of env 'gym'."""

    id: str
    arguments: Mapping[str, Any]
    inputs: tuple[str, ...]
    view: Literal["pixels", "symbols"]
    grayscale: bool
    image_size: int | None
    frame_stack: int
    time_limit: int | None
    reward_threshold: float | None

    @classmethod
    def from_config(cls, id: str, config: Any, arguments: Mapping[str, Any]) -> EnvSpec:
        """The fields that are options come from the env's ``Config``."""
        names = [field.name for field in attrs.fields(cls) if field.name not in ("id", "arguments")]
        values: dict[str, Any] = {name: getattr(config, name) for name in names}
        return cls(id=id, arguments=arguments, **values)


def make(spec: EnvSpec, number: int = 0) -> gymnasium.Env[Any, Any]:
    """Create the environment with index `number`.

    Observations are dictionaries of images (C, H, W) uint8 and vectors (C,) float32, or stacks of those. At
    the end of an episode, ``info["success"]`` is a bool.
    """
    if multiprocessing.parent_process() is not None:
        ignore_signals()
    register(spec.id)
    if is_vizdoom(spec.id) and "doom_config_path" not in spec.arguments:
        env: gymnasium.Env[Any, Any] = VizDoomFolder(spec)
    else:
        env = gymnasium.make(spec.id, max_episode_steps=spec.time_limit, **spec.arguments)
    if is_minigrid(spec.id):
        from minigrid.wrappers import OneHotPartialObsWrapper, RGBImgPartialObsWrapper

        rendered = spec.view == "pixels"
        env = RGBImgPartialObsWrapper(env, TILE_PIXELS) if rendered else OneHotPartialObsWrapper(env)  # type: ignore[no-untyped-call]
    env = DictObservations(env, spec, number)
    return FrameStackObservation(env, spec.frame_stack) if spec.frame_stack > 1 else env


def ignore_signals() -> None:
    """Leave SIGINT and, for a while, SIGTERM to the main process: a terminal or batch system may signal all
    processes at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS) and None)


def register(id: str) -> None:
    """Import the module that registers an environment, if it is one of `LIBRARIES`."""
    for prefix, library in LIBRARIES.items():
        if id.startswith(prefix):
            importlib.import_module(library)


def library_versions(env: gymnasium.Env[Any, Any]) -> dict[str, str]:
    """Versions of Gymnasium and of the environment's library, if it is an installed package."""
    versions = {}
    for name in ("gymnasium", type(env.unwrapped).__module__.partition(".")[0]):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def is_minigrid(id: str) -> bool:
    """Whether an id is one of MiniGrid's, whose views can be symbols or pixels."""
    return id.rpartition(":")[2].startswith(("MiniGrid-", "BabyAI-"))


def is_vizdoom(id: str) -> bool:
    """Whether an id is one of VizDoom's."""
    return id.rpartition(":")[2].startswith("Vizdoom")


class VizDoomFolder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A VizDoom environment that leaves nothing in the working directory.

    The engine's settings are kept in a temporary folder, which is removed when the environment is closed; the
    empty folders that the engine creates for skins are removed after a reset.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sidetune-vizdoom-")
        arguments = {**spec.arguments, "doom_config_path": f"{self._folder.name}/vizdoom.ini"}
        super().__init__(gymnasium.make(spec.id, max_episode_steps=spec.time_limit, **arguments))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        existed = VIZDOOM_FOLDER.exists()
        result = super().reset(seed=seed, options=options)
        if not existed:
            for folder in (VIZDOOM_FOLDER / "skins", VIZDOOM_FOLDER):
                with suppress(OSError):  # it was never created, or is in use
                    folder.rmdir()
        return result

    def close(self) -> None:
        super().close()
        self._folder.cleanup()


class DictObservations(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Observations as a dictionary of images (C, H, W) uint8 and vectors (C,) float32.

    The first image is called ``image`` and an observation that is a single vector ``vector``; all others keep
    the environment's names, and text is dropped. Discrete observations are one-hot vectors. Exceptions of the
    environment get a note with its index.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], spec: EnvSpec, number: int) -> None:
        RecordConstructorArgs.__init__(self, spec=spec, number=number)
        gymnasium.Wrapper.__init__(self, env)
        self._spec, self._number = spec, number
        self._threshold = spec.reward_threshold
        if self._threshold is None and env.spec is not None:
            self._threshold = env.spec.reward_threshold
        space = env.observation_space
        subspaces = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
        self._is_single = "" in subspaces
        self._subspaces = {key: part for key, part in subspaces.items() if isinstance(part, NUMERIC_SPACES)}
        images = [key for key, part in self._subspaces.items() if _is_image(part)]
        self._images = frozenset(images)
        self._names = {key: key or "vector" for key in self._subspaces}
        if images and "image" not in self._subspaces:
            self._names[images[0]] = "image"
        available = self._names.values()
        kept = set(spec.inputs or available)
        if unknown := kept - set(available):
            raise ValueError(
                f"it has no input {', '.join(sorted(unknown))}; its inputs: {', '.join(available)}"
            )
        self._subspaces = {key: part for key, part in self._subspaces.items() if self._names[key] in kept}
        self.observation_space = spaces.Dict({self._names[key]: self._box(key) for key in self._subspaces})
        self._return = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        is_minigrid_env = is_minigrid(self._spec.id)  # BabyAI prints the missions that it rejects
        output = redirect_stdout(io.StringIO()) if is_minigrid_env else nullcontext()
        with output, self._noting_index():
            observation, _ = self.env.reset(seed=seed, options=options)
        self._return = 0.0
        return self._convert(observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        with self._noting_index():
            observation, reward, terminated, truncated, info = self.env.step(action)
        self._return += float(reward)
        final_info = {"success": self._is_success(info)} if terminated or truncated else {}
        return self._convert(observation), float(reward), bool(terminated), bool(truncated), final_info

    @contextmanager
    def _noting_index(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.add_note(f"{NOTE}{self._number}")
            raise

    def _is_success(self, info: Mapping[str, Any]) -> bool:
        if self._spec.reward_threshold is None:
            for key in ("is_success", "success"):
                if key in info:
                    return bool(info[key])
        return self._return >= self._threshold if self._threshold is not None else self._return > 0

    def _convert(self, observation: Any) -> dict[str, Any]:
        values = {"": observation} if self._is_single else observation
        return {self._names[key]: self._array(key, values[key]) for key in self._subspaces}

    def _array(self, key: str, value: Any) -> Any:
        if key in self._images:
            return self._image(np.asarray(value))
        space = self._subspaces[key]
        flat = value if type(space) is spaces.Box else spaces.flatten(space, value)
        return np.array(flat, np.float32).reshape(-1)

    def _image(self, image: Any) -> Any:
        if self._spec.grayscale and image.shape[2] == 3:
            image = np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
        size = self._spec.image_size
        if size is not None:
            planes = [image] if image.shape[2] == 3 else [image[:, :, k] for k in range(image.shape[2])]
            images = [Image.fromarray(plane).resize((size, size), Image.Resampling.BOX) for plane in planes]
            image = np.dstack([np.asarray(resized) for resized in images])
        return image.transpose(2, 0, 1).copy()

    def _box(self, key: str) -> spaces.Box:
        space = self._subspaces[key]
        if key not in self._images:
            flat = spaces.flatten_space(space)
            assert isinstance(flat, spaces.Box), f"{space} cannot be a vector"
            return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
        assert space.shape is not None
        blank = self._array(key, np.zeros(space.shape, np.uint8))
        return spaces.Box(0, 255, blank.shape, np.uint8)


def _is_image(space: spaces.Space[Any]) -> bool:
    """Whether observations are (H, W, C) bytes."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8
