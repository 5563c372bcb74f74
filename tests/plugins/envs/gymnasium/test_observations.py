"""Conversion of MiniGrid's observations equals that of its own wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from minigrid.wrappers import OneHotPartialObsWrapper, RGBImgPartialObsWrapper
from sidetune_plugins.envs.gymnasium.grid_view import TILE_PIXELS, grid_pixels, grid_symbols


def views(id: str, wrapper: Any, steps: int = 60) -> Any:
    """The raw view and that of a wrapper, of random steps."""
    wrapped = wrapper(gymnasium.make(id))
    observation, _ = wrapped.reset(seed=1)
    random = np.random.default_rng(0)
    for _ in range(steps):
        yield wrapped.unwrapped.gen_obs()["image"], observation["image"]
        observation, _, terminated, truncated, _ = wrapped.step(random.integers(7))
        if terminated or truncated:
            observation, _ = wrapped.reset()
    wrapped.close()


IDS = (
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-LavaGapS5-v0",
    "MiniGrid-Fetch-5x5-N2-v0",
    "MiniGrid-KeyCorridorS3R1-v0",
)


@pytest.mark.parametrize("id", IDS)
def test_symbols_are_those_of_minigrid(id: str) -> None:
    for raw, expected in views(id, OneHotPartialObsWrapper):
        assert np.array_equal(grid_symbols(raw, [11, 6, 3]), expected)


@pytest.mark.parametrize("id", IDS)
def test_pixels_are_those_of_minigrid(id: str) -> None:
    for raw, expected in views(id, lambda env: RGBImgPartialObsWrapper(env, TILE_PIXELS)):
        assert np.array_equal(grid_pixels(raw), expected)


def test_numbers_that_minigrid_does_not_know_are_refused() -> None:
    view = np.full((7, 7, 3), 20, np.uint8)
    with pytest.raises(ValueError, match="below 11, 6, 3"):
        grid_symbols(view, [11, 6, 3])
    with pytest.raises(ValueError, match="no such object"):
        grid_pixels(view)
