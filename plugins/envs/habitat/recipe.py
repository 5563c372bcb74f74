"""How an environment of habitat-lab is made, told from one process to another."""

from __future__ import annotations

from typing import Literal

import attrs
from gymnasium import spaces

IMAGE, GOAL, MAP = "image", "goal", "map"
"""Inputs that have names of their own; the others are called as habitat's sensors are."""


@attrs.frozen
class EnvSpec:
    """See the options of env 'habitat'."""

    config: str
    overrides: tuple[str, ...]
    imports: tuple[str, ...]
    inputs: tuple[str, ...]
    blind: bool
    oracle_stop: bool
    stack: int
    tile: int | None
    map: Literal["visited", "depth"]
    map_size: int
    map_metres: float
    split: str = ""
    """Of the dataset; empty for that which the config names."""
    scenes: tuple[str, ...] = ()
    """Whose episodes are played; empty for those that the config names."""
    places: tuple[int, ...] | None = None
    """Episodes to play in this order, as places among those of the split, sorted by scene; None for habitat's own order of all."""


@attrs.frozen
class EnvInfo:
    """What is in an environment."""

    observations: spaces.Dict
    actions: spaces.Discrete
    episodes: int
    """Of the split that is evaluated on."""
    scenes: tuple[str, ...]
    """To train in."""
    config: bytes = attrs.field(repr=False)
    """Habitat's config, pickled; it is composed once, which takes longer than all else."""
