"""What is needed to create an environment of habitat-lab; it is sent between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
from gymnasium import spaces

IMAGE, GOAL, MAP = "image", "goal", "map"
"""Inputs with names of their own; all others have the names of habitat's sensors."""


FRAMES_PER_SECOND = 10
"""Of a video of an episode."""


@attrs.frozen
class EnvSpec:
    """See the options of env 'habitat'."""

    config: str
    overrides: tuple[str, ...]
    imports: tuple[str, ...]
    inputs: tuple[str, ...]
    mask_images: bool
    oracle_stop: bool
    frame_stack: int
    tile: int | None
    map: Literal["visited", "depth"]
    map_size: int
    map_metres: float
    map_pool: int = 1
    map_clip_goal: bool = False
    split: str = ""
    """Of the dataset; empty for the config's split."""
    scenes: tuple[str, ...] = ()
    """Scenes whose episodes are played; empty for the config's scenes."""
    rendered: bool = False
    """Whether frames are kept, see `KeptFrames` of env 'gym'."""
    time_limit: int | None = None
    """Steps after which habitat ends an episode; None for the config's limit."""
    episodes: tuple[int, ...] | None = None
    """Indices of the episodes to play, in this order, in the split sorted by scene; None for all, in
    habitat's order."""

    @classmethod
    def from_config(cls, config: Any, overrides: Sequence[str]) -> EnvSpec:
        """The fields that are options come from the env's ``Config``."""
        others = {"overrides", "scenes", "rendered", "time_limit", "episodes"}
        names = {field.name for field in attrs.fields(cls)} - others
        return cls(overrides=tuple(overrides), **{name: getattr(config, name) for name in names})


@attrs.frozen
class SensorInput:
    """The sensor that an input comes from; the map comes from the simulator, under its own name."""

    uuid: str
    shape: Sequence[int]
    """Of its values: (H, W, C) or (C,)."""
    is_bytes: bool
    """Whether they are bytes."""
    polar: bool = False
    """Whether a goal is given by distance and angle."""


@attrs.frozen
class EnvInfo:
    """Properties of an environment."""

    observations: spaces.Dict
    actions: spaces.Discrete
    episodes: int
    """Number of episodes in the evaluation split."""
    scenes: tuple[str, ...]
    """Training scenes."""
    sensors: Mapping[str, SensorInput]
    """By input name."""
    action_names: tuple[str, ...]
    """Habitat's, in the order of `actions`."""
    time_limit: int
    """Steps after which habitat ends an episode."""
    is_shown: bool
    """Whether there is an image to show: of sensor ``rgb``, or the map."""
    config: bytes = attrs.field(repr=False)
    """Habitat's config, pickled, since composing it takes longest."""
