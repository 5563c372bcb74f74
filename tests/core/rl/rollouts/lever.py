"""An env with a rollout task as version 0.1 of sidetune defined it: a lever that should be on."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Categorical, Observations, RolloutOptions, RolloutTask, Step, TaskStream, Worlds


class LeverWorlds:
    def __init__(self, count: int) -> None:
        self._count = count

    def reset(self, seed: int) -> Observations:
        self._generator, self._time = torch.Generator().manual_seed(seed), 0
        return self._look()

    def step(self, actions: Tensor) -> Step:
        self._time += 1
        over = torch.full((self._count,), self._time % 4 == 0)
        final = self._look() if over.all() else {}
        rewards = actions[:, 0]
        measures = {"pushes": torch.full((self._count,), 4.0)}
        return Step(
            self._look(), rewards, torch.zeros_like(over), over, rewards > 0, final=final, measures=measures
        )

    def close(self) -> None:
        pass

    def _look(self) -> Observations:
        return {"vector": torch.rand(self._count, 1, generator=self._generator)}


class Pusher:
    def begin(self, worlds: Worlds, seed: int) -> None:
        pass

    def act(self, observations: Observations) -> Tensor:
        return torch.ones(1, 1)


class LeverTask(RolloutTask):
    experts = ("pusher",)

    def __init__(self, options: RolloutOptions) -> None:
        super().__init__("t0", "lever", {"vector": (1,)}, {}, Categorical([2]), options)

    def make_worlds(self, count: int) -> Worlds:
        return LeverWorlds(count)

    def expert(self, name: str) -> Pusher:
        return Pusher()


class Lever(TaskStream):
    @attrs.frozen
    class Config(RolloutOptions):
        pass

    def __init__(self, config: Config, seed: int) -> None:
        self._config = config
        self.inputs = {"vector": (1,)}

    def tasks(self) -> Sequence[LeverTask]:
        return [LeverTask(self._config)]
