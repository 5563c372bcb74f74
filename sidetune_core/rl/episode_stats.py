"""Statistics of episodes: return, length, success and further metrics, counted while environments are
stepped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch

from sidetune_core.rl.vector_env import Step


@attrs.frozen
class Episode:
    """The result of an episode."""

    total_reward: float
    """Undiscounted."""
    length: int
    """In steps."""
    success: bool
    metrics: Mapping[str, float]
    """Further metrics of the environment, see `Step.metrics`."""


def means(episodes: Sequence[Episode]) -> dict[str, float]:
    """Mean return, success rate, mean length in steps, and the mean of every further metric, of at least one
    episode."""
    count = len(episodes)
    metrics = {
        name: sum(episode.metrics[name] for episode in episodes) / count
        for name in episodes[0].metrics
        if all(name in episode.metrics for episode in episodes)
    }
    return metrics | {
        "return": sum(episode.total_reward for episode in episodes) / count,
        "success": sum(episode.success for episode in episodes) / count,
        "length": sum(episode.length for episode in episodes) / count,
    }


class EpisodeStatistics:
    """Accumulates the episodes of E environments."""

    def __init__(self, num_envs: int) -> None:
        self.steps = 0
        self._totals = torch.zeros(num_envs, dtype=torch.float64)
        self._lengths = torch.zeros(num_envs, dtype=torch.int64)

    def update(self, step: Step) -> list[tuple[int, Episode]]:
        """Include a step; returns the episodes that ended in it, each with the index of its environment."""
        self.steps += 1
        self._totals += step.rewards
        self._lengths += 1
        if not step.final_observations:
            return []
        ended: list[int] = step.ended.nonzero()[:, 0].tolist()
        episodes = [(env, self._episode(step, env)) for env in ended]
        self._totals[ended], self._lengths[ended] = 0.0, 0
        return episodes

    def longest(self, max_steps: int | None) -> list[int]:
        """Indices of the environments whose episode has that many steps."""
        return [] if max_steps is None else (self._lengths >= max_steps).nonzero()[:, 0].tolist()

    def cut(self, env: int) -> Episode:
        """The unfinished episode of an environment."""
        return Episode(float(self._totals[env]), int(self._lengths[env]), success=False, metrics={})

    def _episode(self, step: Step, env: int) -> Episode:
        return Episode(
            total_reward=float(self._totals[env]),
            length=int(self._lengths[env]),
            success=bool(step.success[env]),
            metrics={name: float(value[env]) for name, value in step.metrics.items()},
        )
