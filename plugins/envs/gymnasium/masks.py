"""Masks of valid actions, from wherever an environment has them.

Worker processes import this module, so it does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from .parts import Space

KEY = "action_mask"
"""In ``info``, as of Gymnasium's Taxi, or in a dictionary of observations, as in PettingZoo."""
METHOD = "action_masks"
"""Of an environment, as in sb3-contrib."""
INPUT = "_action_mask"
"""`sidetune_core.rl.MASK`, whose module imports torch."""

Source = Literal["", "observation", "method", "info"]


class RawStep(NamedTuple):
    """The latest observation and info of the plain environment."""

    observation: Any
    info: Mapping[str, Any]


def mask_source(env: gymnasium.Env[Any, Any]) -> Source:
    """Where an environment within `DictObservations` has a mask of its actions; it is reset to find out."""
    if choices(env.action_space) == 0:
        return ""
    if env.has_wrapper_attr(METHOD):
        return "method"
    try:
        env.reset(seed=0)
    except Exception:  # it is reported where the environment is used
        return ""
    raw: RawStep = env.get_wrapper_attr("raw")
    if KEY in raw.info:
        return "info"
    return "observation" if isinstance(raw.observation, Mapping) and KEY in raw.observation else ""


def choices(space: Space) -> int:
    """The number of logits of a policy for a discrete space; 0 for any other."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return 2 * int(np.prod(space.shape)) if isinstance(space, spaces.MultiBinary) else 0


def as_mask(value: Any, count: int) -> NDArray[np.uint8]:
    """A mask (count,) of 0 and 1, of an array or of a tuple with an array for each choice.

    Raises:
        ValueError: it has another number of elements.
    """
    parts = value if isinstance(value, tuple | list) else (value,)
    mask = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
    if mask.size != count:
        raise ValueError(f"the action mask has {mask.size} elements, and there are {count} actions")
    return np.asarray(mask != 0, np.uint8)


class ActionMasks(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds the mask of the actions to converted observations, around `DictObservations`.

    All actions are valid where the environment says nothing, as after the end of an episode.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._count = choices(env.action_space)
        assert isinstance(env.observation_space, spaces.Dict)
        mask = spaces.Box(0, 1, (self._count,), np.uint8)
        self.observation_space = spaces.Dict({**env.observation_space.spaces, INPUT: mask})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return {**observation, INPUT: self._mask()}, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return {**observation, INPUT: self._mask()}, reward, terminated, truncated, info

    def _mask(self) -> NDArray[np.uint8]:
        raw: RawStep = self.env.get_wrapper_attr("raw")
        if self.env.has_wrapper_attr(METHOD):
            return as_mask(self.env.get_wrapper_attr(METHOD)(), self._count)
        given = raw.info.get(KEY)
        if given is None and isinstance(raw.observation, Mapping):
            given = raw.observation.get(KEY)
        return np.ones(self._count, np.uint8) if given is None else as_mask(given, self._count)
