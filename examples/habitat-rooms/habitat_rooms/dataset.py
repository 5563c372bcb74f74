"""The dataset: episodes in the plans of a folder, drawn once and for all."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from habitat.core.dataset import ALL_SCENES_MASK, Dataset
from habitat.core.registry import registry
from habitat.tasks.nav.nav import NavigationEpisode, NavigationGoal
from omegaconf import DictConfig

from .world import World

EPISODES = 50
"""Of each scene."""
RADIUS = 0.1
"""Of the agent, in metres."""
SHORTEST, LONGEST = 1.0, 8.0
"""Metres from start to goal, as the agent walks."""


@registry.register_dataset(name="Rooms-v0")
class RoomsDataset(Dataset):
    """Episodes from one random place of a plan to another; ``data_path`` is a folder of plans, here or in this package.

    They are drawn by a generator whose seed is the name of the scene, so that they are always the same.
    """

    def __init__(self, config: DictConfig) -> None:
        scenes = (
            self.get_scenes_to_load(config)
            if ALL_SCENES_MASK in config.content_scenes
            else config.content_scenes
        )
        self.episodes = [
            episode for scene in scenes for episode in _episodes(_folder(config) / f"{scene}.txt")
        ]

    @classmethod
    def get_scenes_to_load(cls, config: DictConfig) -> list[str]:
        return sorted(path.stem for path in _folder(config).glob("*.txt"))


def _folder(config: DictConfig) -> Path:
    path = Path(config.data_path.format(split=config.split))
    found = path if path.is_dir() else Path(__file__).parent / path
    if not found.is_dir():
        raise FileNotFoundError(f"there is no folder of plans {path}")
    return found


def _episodes(path: Path) -> list[NavigationEpisode]:
    world, random = World.read(path, RADIUS), np.random.default_rng(list(path.stem.encode()))
    found: list[NavigationEpisode] = []
    while len(found) < EPISODES:
        start, goal = random.uniform((1, 1), (len(world.plan[0]) - 1, len(world.plan) - 1), (2, 2))
        if not (
            world.is_free(start)
            and world.is_free(goal)
            and SHORTEST <= (length := world.distance(start, goal)) <= LONGEST
        ):
            continue
        half = math.radians(10 * random.integers(36)) / 2
        found.append(
            NavigationEpisode(
                episode_id=str(len(found)),
                scene_id=str(path),
                start_position=[float(start[0]), 0.0, float(start[1])],
                start_rotation=[0.0, math.sin(half), 0.0, math.cos(half)],
                goals=[NavigationGoal(position=[float(goal[0]), 0.0, float(goal[1])])],
                info={"geodesic_distance": length},
            )
        )
    return found
