"""The dataset: fixed random episodes in the floor plans of a folder."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from habitat.core.dataset import ALL_SCENES_MASK, Dataset
from habitat.core.registry import registry
from habitat.tasks.nav.nav import NavigationEpisode, NavigationGoal
from omegaconf import DictConfig

from .world import World

EPISODES_PER_SCENE = 50
AGENT_RADIUS = 0.1
"""In metres."""
MIN_DISTANCE, MAX_DISTANCE = 1.0, 8.0
"""Geodesic distance from start to goal, in metres."""


@registry.register_dataset(name="Rooms-v0")
class RoomsDataset(Dataset):
    """Episodes between random points of a floor plan.

    ``data_path`` is a folder of plans, relative to the current folder or to this package. The scene's name
    seeds the generator, so the episodes are always the same.
    """

    def __init__(self, config: DictConfig) -> None:
        scenes = config.content_scenes
        if ALL_SCENES_MASK in scenes:
            scenes = self.get_scenes_to_load(config)
        self.episodes = []
        for scene in scenes:
            self.episodes += _episodes(_folder(config) / f"{scene}.txt")

    @classmethod
    def get_scenes_to_load(cls, config: DictConfig) -> list[str]:
        return sorted(path.stem for path in _folder(config).glob("*.txt"))


def _folder(config: DictConfig) -> Path:
    path = Path(config.data_path.format(split=config.split))
    folder = path if path.is_dir() else Path(__file__).parent / path
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of floor plans {path}")
    return folder


def _episodes(path: Path) -> list[NavigationEpisode]:
    world, random = World.read(path, AGENT_RADIUS), np.random.default_rng(list(path.stem.encode()))
    episodes: list[NavigationEpisode] = []
    while len(episodes) < EPISODES_PER_SCENE:
        start, goal = random.uniform((1, 1), (len(world.plan[0]) - 1, len(world.plan) - 1), (2, 2))
        if not (
            world.is_free(start)
            and world.is_free(goal)
            and MIN_DISTANCE <= (length := world.distance(start, goal)) <= MAX_DISTANCE
        ):
            continue
        half = math.radians(10 * random.integers(36)) / 2
        episodes.append(
            NavigationEpisode(
                episode_id=str(len(episodes)),
                scene_id=str(path),
                start_position=[float(start[0]), 0.0, float(start[1])],
                start_rotation=[0.0, math.sin(half), 0.0, math.cos(half)],
                goals=[NavigationGoal(position=[float(goal[0]), 0.0, float(goal[1])])],
                info={"geodesic_distance": length},
            )
        )
    return episodes
