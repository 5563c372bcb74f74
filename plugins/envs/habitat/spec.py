"""What is needed to create an environment of habitat-lab; it is sent between processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs
from gymnasium import spaces

IMAGE, GOAL, MAP = "image", "goal", "map"
"""Inputs with names of their own; all others have the names of habitat's sensors."""


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
    split: str = ""
    """Of the dataset; empty for the config's split."""
    scenes: tuple[str, ...] = ()
    """Scenes whose episodes are played; empty for the config's scenes."""
    episodes: tuple[int, ...] | None = None
    """Indices of the episodes to play, in this order, in the split sorted by scene; None for all, in
    habitat's order."""

    @classmethod
    def from_config(cls, config: Any, overrides: Sequence[str]) -> EnvSpec:
        """The fields that are options come from the env's ``Config``."""
        names = {field.name for field in attrs.fields(cls)} - {"overrides", "scenes", "episodes"}
        return cls(overrides=tuple(overrides), **{name: getattr(config, name) for name in names})


@attrs.frozen
class EnvInfo:
    """Properties of an environment."""

    observations: spaces.Dict
    actions: spaces.Discrete
    episodes: int
    """Number of episodes in the evaluation split."""
    scenes: tuple[str, ...]
    """Training scenes."""
    config: bytes = attrs.field(repr=False)
    """Habitat's config, pickled, since composing it takes longest."""
