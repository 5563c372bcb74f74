"""One Gymnasium environment, made ready. It is imported by worker processes, so it imports no torch."""

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
"""What registers environments whose ids begin so; Gymnasium itself takes ``module:Id-v0``."""

GRACE = 30
"""Seconds that a process outlives SIGTERM, so that the run can be saved."""

ENGINE_FOLDER = Path("_vizdoom")

TILE = 4
"""Pixels of a MiniGrid tile, so that its 7 x 7 view is 28 x 28."""

NOTE = "environment "
"""A note on an exception that begins so says which environment raised it."""

NUMBERS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Observations that a network can be given."""


@attrs.frozen
class EnvSpec:
    """How an environment is made, see the options of env 'gym'."""

    id: str
    arguments: Mapping[str, Any]
    inputs: str
    view: Literal["pixels", "symbols"]
    grey: bool
    size: int | None
    stack: int
    time_limit: int | None
    success: float | None


def make(recipe: EnvSpec, number: int = 0) -> gymnasium.Env[Any, Any]:
    """Environment `number` of several. Observations are tables of images (C, H, W) uint8 and of vectors (C,) float32, or stacks of those.

    At the end of an episode, ``info`` says whether it was a success.
    """
    if multiprocessing.parent_process() is not None:
        outlive_signals()
    register(recipe.id)
    if is_vizdoom(recipe.id) and "doom_config_path" not in recipe.arguments:
        env: gymnasium.Env[Any, Any] = WithFolder(recipe)
    else:
        env = gymnasium.make(recipe.id, max_episode_steps=recipe.time_limit, **recipe.arguments)
    if is_minigrid(recipe.id):
        from minigrid.wrappers import OneHotPartialObsWrapper, RGBImgPartialObsWrapper

        drawn = recipe.view == "pixels"
        env = RGBImgPartialObsWrapper(env, TILE) if drawn else OneHotPartialObsWrapper(env)  # type: ignore[no-untyped-call]
    seen = Sensors(env, recipe, number)
    return FrameStackObservation(seen, recipe.stack) if recipe.stack > 1 else seen


def outlive_signals() -> None:
    """Signals may go to all processes at once; the first one says what becomes of the others, if it is still there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE) and None)


def register(id: str) -> None:
    """Import what registers an environment, if that is known."""
    for prefix, library in LIBRARIES.items():
        if id.startswith(prefix):
            importlib.import_module(library)


def versions_of(env: gymnasium.Env[Any, Any]) -> dict[str, str]:
    """Versions of Gymnasium and of the library that an environment comes from, as far as that is a package."""
    found = {}
    for name in ("gymnasium", type(env.unwrapped).__module__.partition(".")[0]):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def is_minigrid(id: str) -> bool:
    """Whether an id is one of MiniGrid's, whose views are symbols that can be drawn."""
    return id.rpartition(":")[2].startswith(("MiniGrid-", "BabyAI-"))


def is_vizdoom(id: str) -> bool:
    """Whether an id is one of VizDoom's."""
    return id.rpartition(":")[2].startswith("Vizdoom")


class WithFolder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A VizDoom environment that leaves nothing in the working directory.

    The engine's settings go into a folder that goes when the environment is closed; the empty folders that it makes for skins go at once.
    """

    def __init__(self, recipe: EnvSpec) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sidetune-vizdoom-")
        arguments = {**recipe.arguments, "doom_config_path": f"{self._folder.name}/vizdoom.ini"}
        super().__init__(gymnasium.make(recipe.id, max_episode_steps=recipe.time_limit, **arguments))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        before = ENGINE_FOLDER.exists()
        found = super().reset(seed=seed, options=options)
        if not before:
            for folder in (ENGINE_FOLDER / "skins", ENGINE_FOLDER):
                with suppress(OSError):  # it was never made, or somebody uses it
                    folder.rmdir()
        return found

    def close(self) -> None:
        super().close()
        self._folder.cleanup()


class Sensors(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Observations as a table: images (C, H, W) uint8 and vectors (C,) float32.

    The first image is called ``image`` and an observation that is a single vector ``vector``; all others have the names that the
    environment gives them, text is left out. Whole numbers from a range are one-hot vectors. What the environment raises gets its number
    as a note.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], recipe: EnvSpec, number: int) -> None:
        RecordConstructorArgs.__init__(self, recipe=recipe, number=number)
        gymnasium.Wrapper.__init__(self, env)
        self._recipe, self._number = recipe, number
        self._success = recipe.success
        if self._success is None and env.spec is not None:
            self._success = env.spec.reward_threshold
        space = env.observation_space
        components = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
        self._alone = "" in components
        self._parts = {key: part for key, part in components.items() if isinstance(part, NUMBERS)}
        images = [key for key, part in self._parts.items() if _is_image(part)]
        self._images = frozenset(images)
        self._names = {key: key or "vector" for key in self._parts}
        if images and "image" not in self._parts:
            self._names[images[0]] = "image"
        kept = (
            {name.strip() for name in recipe.inputs.split(",")}
            if recipe.inputs
            else set(self._names.values())
        )
        if unknown := kept - set(self._names.values()):
            raise ValueError(
                f"it has no input {', '.join(sorted(unknown))}; it has {', '.join(self._names.values())}"
            )
        self._parts = {key: part for key, part in self._parts.items() if self._names[key] in kept}
        self.observation_space = spaces.Dict({self._names[key]: self._space(key) for key in self._parts})
        self._total = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        quiet = (
            redirect_stdout(io.StringIO()) if is_minigrid(self._recipe.id) else nullcontext()
        )  # BabyAI prints what it does not take
        with quiet, self._numbered():
            observation, _ = self.env.reset(seed=seed, options=options)
        self._total = 0.0
        return self._read(observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        with self._numbered():
            observation, reward, terminated, truncated, info = self.env.step(action)
        self._total += float(reward)
        told = {"success": self._succeeded(info)} if terminated or truncated else {}
        return self._read(observation), float(reward), bool(terminated), bool(truncated), told

    @contextmanager
    def _numbered(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.add_note(f"{NOTE}{self._number}")
            raise

    def _succeeded(self, info: Mapping[str, Any]) -> bool:
        if self._recipe.success is None:
            for key in ("is_success", "success"):
                if key in info:
                    return bool(info[key])
        return self._total >= self._success if self._success is not None else self._total > 0

    def _read(self, observation: Any) -> dict[str, Any]:
        values = {"": observation} if self._alone else observation
        return {self._names[key]: self._array(key, values[key]) for key in self._parts}

    def _array(self, key: str, value: Any) -> Any:
        if key not in self._images:
            part = self._parts[key]
            return np.array(
                value if type(part) is spaces.Box else spaces.flatten(part, value), np.float32
            ).reshape(-1)
        image = np.asarray(value)
        if self._recipe.grey and image.shape[2] == 3:
            image = np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
        size = self._recipe.size
        if size is not None:
            whole = [image] if image.shape[2] == 3 else [image[:, :, k] for k in range(image.shape[2])]
            planes = [
                np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BOX)) for one in whole
            ]
            image = np.dstack(planes)
        return image.transpose(2, 0, 1).copy()

    def _space(self, key: str) -> spaces.Box:
        part = self._parts[key]
        if key not in self._images:
            flat = spaces.flatten_space(part)
            assert isinstance(flat, spaces.Box), f"{part} cannot be a vector"
            return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
        assert part.shape is not None
        blank = self._array(key, np.zeros(part.shape, np.uint8))
        return spaces.Box(0, 255, blank.shape, np.uint8)


def _is_image(part: spaces.Space[Any]) -> bool:
    """(H, W, C) of bytes."""
    return isinstance(part, spaces.Box) and len(part.shape) == 3 and part.dtype == np.uint8
