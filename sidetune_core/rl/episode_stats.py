"""Episodes: what came of each, counted while environments are stepped, and their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch

from sidetune_core.rl.vector_env import Step


@attrs.frozen
class Episode:
    """What came of an episode."""

    total: float
    """Sum of its rewards."""
    length: int
    success: bool
    measures: Mapping[str, float]


def means(episodes: Sequence[Episode]) -> dict[str, float]:
    """Mean return, share of successes, mean length in steps, and the mean of every other measure; of one episode at least."""
    count = len(episodes)
    measures = {name: sum(one.measures[name] for one in episodes) / count for name in episodes[0].measures}
    return measures | {
        "return": sum(one.total for one in episodes) / count,
        "success": sum(one.success for one in episodes) / count,
        "length": sum(one.length for one in episodes) / count,
    }


class EpisodeStatistics:
    """Counts the episodes of E environments."""

    def __init__(self, envs: int) -> None:
        self.steps = 0
        self._totals, self._lengths = (
            torch.zeros(envs, dtype=torch.float64),
            torch.zeros(envs, dtype=torch.int64),
        )

    def count(self, step: Step) -> list[tuple[int, Episode]]:
        """Take a step into account; returns the episodes that ended in it, each with its environment."""
        self.steps += 1
        self._totals += step.rewards
        self._lengths += 1
        if not step.final:
            return []
        over: list[int] = step.ended.nonzero()[:, 0].tolist()
        found = [(one, self._episode(step, one)) for one in over]
        self._totals[over], self._lengths[over] = 0.0, 0
        return found

    def _episode(self, step: Step, number: int) -> Episode:
        measures = {name: float(value[number]) for name, value in step.measures.items()}
        return Episode(
            float(self._totals[number]), int(self._lengths[number]), bool(step.success[number]), measures
        )
