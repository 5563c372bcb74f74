"""An env that needs memory: the first observation says which action is rewarded in the last step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import TaskStream
from sidetune_core.rl import Categorical, RolloutConfig, RolloutTask, Step, VectorEnv

LENGTH = 4
"""Steps of an episode."""


class RecallVectorEnv:
    """``cue`` (2,): one-hot in the first step, zeros afterwards.

    If `staggered`, environment k is k steps ahead at first, so that episodes do not end together.
    """

    def __init__(self, count: int, staggered: bool) -> None:
        self.count, self.staggered = count, staggered

    def reset(self, seed: int) -> Mapping[str, Tensor]:
        self.generator = torch.Generator().manual_seed(seed)
        self.time = torch.arange(self.count) * self.staggered % LENGTH
        self.cue = torch.randint(2, (self.count,), generator=self.generator)
        return self._observe()

    def step(self, actions: Tensor) -> Step:
        over = self.time == LENGTH - 1
        rewards = ((actions[:, 0] == self.cue) & over).float()
        final = {"cue": torch.zeros(int(over.sum()), 2)} if over.any() else {}
        self.time = (self.time + 1) % LENGTH
        self.cue = torch.where(over, torch.randint(2, (self.count,), generator=self.generator), self.cue)
        return Step(self._observe(), rewards, over, torch.zeros_like(over), rewards > 0, final)

    def close(self) -> None:
        pass

    def _observe(self) -> Mapping[str, Tensor]:
        shown = torch.nn.functional.one_hot(self.cue, 2) * (self.time == 0)[:, None]
        return {"cue": shown.float()}


class RecallTask(RolloutTask):
    """The only task."""

    def __init__(self, options: RolloutConfig) -> None:
        super().__init__("t0", "recall", {"cue": (2,)}, {}, Categorical([2]), options)

    def make_vector_env(self, count: int) -> VectorEnv:
        return RecallVectorEnv(count, staggered=True)

    def make_test_vector_env(self, count: int) -> VectorEnv:
        return RecallVectorEnv(count, staggered=False)


class Recall(TaskStream):
    """One task."""

    @attrs.frozen
    class Config(RolloutConfig):
        """Options."""

    recipe = {"device.precision": "fp32"}
    inputs = {"cue": (2,)}

    def __init__(self, config: Config, seed: int) -> None:
        self._config = config

    def tasks(self) -> Sequence[RecallTask]:
        return [RecallTask(self._config)]
