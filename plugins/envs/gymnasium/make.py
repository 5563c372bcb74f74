"""Creates one Gymnasium environment with its wrappers.

Worker processes import this module, so it does not import torch.
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import signal
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import attrs
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import FrameStackObservation

from .grid_view import TILE_PIXELS
from .images import ImageOptions
from .local_code import current_folder, import_module_of, wrapped
from .masks import ActionMasks, RawStep
from .missions import WORDS, MissionConverter, MissionOptions
from .names import texts_of
from .observations import ConversionOptions, ObservationConverter
from .parts import parts_of, top_parts_of

LIBRARIES = {
    "ALE/": "ale_py",
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

NOTE = "environment "
"""Prefix of the exception note that has the index of the environment."""


@attrs.frozen
class EnvSpec:
    """What is needed to create an environment, see the options of env 'gym'."""

    id: str
    arguments: Mapping[str, Any]
    wrappers: tuple[str, ...]
    inputs: tuple[str, ...]
    view: Literal["pixels", "symbols"]
    grayscale: bool
    image_size: int | None
    frame_stack: int
    spaces: Literal["all", "flat"]
    missions: bool
    vocabulary: tuple[str, ...]
    mission_length: int
    time_limit: int | None
    reward_threshold: float | None
    action_masks: bool = False
    """Whether observations have a mask of valid actions, see `ActionMasks`."""
    rendered: bool = False
    """Whether frames are kept, see `KeptFrames`."""

    @property
    def conversion(self) -> ConversionOptions:
        """Of observations."""
        images = ImageOptions(self.grayscale, self.image_size)
        missions = MissionOptions(self.vocabulary or WORDS, self.mission_length) if self.missions else None
        return ConversionOptions(self.inputs, images, missions, is_flat=self.spaces == "flat")

    @property
    def names_code(self) -> bool:
        """Whether it names modules, which may be in the current folder."""
        return any(":" in text for text in (self.id, *self.wrappers, *texts_of(self.arguments)))

    @classmethod
    def from_config(cls, id: str, config: Any, arguments: Mapping[str, Any]) -> EnvSpec:
        """The fields that are options come from the env's ``Config``."""
        others = ("id", "arguments", "action_masks", "rendered")
        names = [field.name for field in attrs.fields(cls) if field.name not in others]
        values: dict[str, Any] = {name: getattr(config, name) for name in names}
        return cls(id=id, arguments=arguments, **values)


def make(spec: EnvSpec, number: int = 0) -> gymnasium.Env[Any, Any]:
    """Create the environment with index `number`.

    Observations are dictionaries of images (C, H, W) uint8 and vectors (C,) float32, or stacks of those. At
    the end of an episode, ``info["success"]`` is a bool.
    """
    if multiprocessing.parent_process() is not None:
        ignore_signals()
    env = make_plain(spec)
    raw_space = env.observation_space
    if spec.rendered:
        env = KeptFrames(env)
    if is_minigrid(spec.id):
        from minigrid.wrappers import OneHotPartialObsWrapper, RGBImgPartialObsWrapper

        rendered = spec.view == "pixels"
        env = RGBImgPartialObsWrapper(env, TILE_PIXELS) if rendered else OneHotPartialObsWrapper(env)  # type: ignore[no-untyped-call]
    env = DictObservations(env, spec, number, raw_space)
    if spec.action_masks:
        env = ActionMasks(env)
    return FrameStackObservation(env, spec.frame_stack) if spec.frame_stack > 1 else env


def make_plain(spec: EnvSpec) -> gymnasium.Env[Any, Any]:
    """The environment with the user's wrappers, and without those of env 'gym'."""
    with current_folder() if spec.names_code else nullcontext():
        register(spec.id)
        return wrapped(_make_unwrapped(spec), spec.wrappers)


def _make_unwrapped(spec: EnvSpec) -> gymnasium.Env[Any, Any]:
    arguments = {**spec.arguments, "render_mode": "rgb_array"} if spec.rendered else spec.arguments
    if is_vizdoom(spec.id) and "doom_config_path" not in spec.arguments:
        return VizDoomFolder(attrs.evolve(spec, arguments=arguments))
    return gymnasium.make(spec.id, max_episode_steps=spec.time_limit, **arguments)


def ignore_signals() -> None:
    """Leave SIGINT and, for a while, SIGTERM to the main process: a terminal or batch system may signal all
    processes at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS) and None)


def register(id: str) -> None:
    """Import the module that registers an environment: that of its id, or one of `LIBRARIES`."""
    import_module_of(id)
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
    """Observations of an `ObservationConverter`. Exceptions of the environment get a note with its index."""

    def __init__(
        self, env: gymnasium.Env[Any, Any], spec: EnvSpec, number: int, raw_space: spaces.Space[Any]
    ) -> None:
        RecordConstructorArgs.__init__(self, spec=spec, number=number, raw_space=raw_space)
        gymnasium.Wrapper.__init__(self, env)
        self._spec, self._number = spec, number
        self.raw_space = raw_space
        self._threshold = spec.reward_threshold
        if self._threshold is None and env.spec is not None:
            self._threshold = env.spec.reward_threshold
        parts = top_parts_of if spec.spaces == "flat" else parts_of
        self.converter = ObservationConverter(parts(env.observation_space), spec.conversion)
        self.observation_space = self.converter.space
        self._return = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        is_minigrid_env = is_minigrid(self._spec.id)  # BabyAI prints the missions that it rejects
        output = redirect_stdout(io.StringIO()) if is_minigrid_env else nullcontext()
        with output:
            try:
                observation, info = self.env.reset(seed=seed, options=options)
                converted = self.converter.convert(observation)
            except Exception as error:
                error.add_note(f"{NOTE}{self._number}")
                raise
        self._return = 0.0
        self.raw = RawStep(observation, info)
        return converted, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            converted = self.converter.convert(observation)
        except Exception as error:
            error.add_note(f"{NOTE}{self._number}")
            raise
        reward = _as_number(reward)
        self._return += reward
        self.raw = RawStep(observation, info)
        final_info = self._final_info(info) if terminated or truncated else {}
        return converted, reward, bool(terminated), bool(truncated), final_info

    def _final_info(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """Of the end of an episode."""
        final: dict[str, Any] = {"success": self._is_success(info)}
        for converter in self.converter.converters.values():
            if isinstance(converter, MissionConverter):
                unread = {"oov_words": float(converter.unknown), "cut_words": float(converter.cut)}
                final |= {"metrics": unread}
        return final

    def _is_success(self, info: Mapping[str, Any]) -> bool:
        if self._spec.reward_threshold is None:
            for key in ("is_success", "success"):
                if key in info:
                    return bool(info[key])
        return self._return >= self._threshold if self._threshold is not None else self._return > 0


def _as_number(reward: Any) -> float:
    """A reward, which may be an array of one element."""
    return float(reward) if isinstance(reward, float | int) else float(np.asarray(reward, np.float64).item())


class KeptFrames(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Renders the environment after each reset and step, and keeps the frames until they are taken."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._frames: list[Any] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        result = super().reset(seed=seed, options=options)
        self._frames.append(as_frame(self.env.render()))
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = super().step(action)
        self._frames.append(as_frame(self.env.render()))
        return result

    def take_frames(self) -> list[Any]:
        """The frames since the previous call, (H, W, 3) uint8 each."""
        frames, self._frames = self._frames, []
        return frames


def as_frame(rendered: Any) -> Any:
    """What an environment has rendered, as a frame (H, W, 3) uint8.

    Raises:
        ValueError: it is none.
    """
    array = np.asarray(rendered) if isinstance(rendered, np.ndarray) else None
    if array is None or array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.dtype != np.uint8:
        what = type(rendered).__name__ if array is None else f"an array {array.shape} of {array.dtype}"
        raise ValueError(f"render() returned {what}, expected an image (H, W, 3) of bytes")
    return np.repeat(array, 3, 2) if array.shape[2] == 1 else array[:, :, :3].copy()
