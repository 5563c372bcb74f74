"""A world that is learnt in a second: a cue says which of two actions is rewarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, DataError, Features, InputShapes, TaskStream, option
from sidetune_core.rl import Categorical, Expert, Observations, RolloutOptions, RolloutTask, Step, VectorEnv

LENGTH = 5
"""Steps after which an episode is cut off."""


class CueWorlds:
    """``cue`` (4,): a one-hot cue of two, the time, and a number that counts all steps. Reward 1 for the action that the cue names."""

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.count, self.steps, self.fails_at = count, 0, fails_at
        self.closed = False

    def reset(self, seed: int) -> Mapping[str, Tensor]:
        self.generator = torch.Generator().manual_seed(seed)
        self.time = torch.zeros(self.count)
        self.cue = self._draw()
        return self._look()

    def step(self, actions: Tensor) -> Step:
        self.steps += 1
        if self.steps == self.fails_at:
            raise DataError("the world has ended")
        rewards = (actions[:, 0] == self.cue).float()
        self.time += 1
        self.cue = self._draw()
        cut = self.time == LENGTH
        final = {name: value[cut] for name, value in self._look().items()} if cut.any() else {}
        self.time[cut] = 0
        return Step(self._look(), rewards, torch.zeros_like(cut), cut, rewards > 0, final)

    def close(self) -> None:
        self.closed = True

    def _draw(self) -> Tensor:
        return torch.randint(2, (self.count,), generator=self.generator)

    def _look(self) -> Mapping[str, Tensor]:
        cue = torch.nn.functional.one_hot(self.cue, 2).float()
        return {
            "cue": torch.cat([cue, self.time.view(-1, 1), torch.full((self.count, 1), float(self.steps))], 1)
        }


class Oracle:
    """An expert that does what the cue says."""

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        pass

    def act(self, observations: Observations) -> Tensor | None:
        return observations["cue"][:, :2].argmax(1, keepdim=True).float()


class Coin:
    """One that tosses a coin, and before each episode another: for tails it gives up."""

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.willing = bool(torch.randint(2, (1,), generator=self.generator))

    def act(self, observations: Observations) -> Tensor | None:
        return torch.randint(2, (1, 1), generator=self.generator).float() if self.willing else None


class CueTask(RolloutTask):
    """One world; `opened` has all that were made."""

    experts = ("oracle", "coin")

    def __init__(self, id: str, options: RolloutOptions, fails_at: int | None = None) -> None:
        super().__init__(id, f"cue {id}", {"cue": (4,)}, {}, Categorical([2]), options)
        self.opened: list[CueWorlds] = []
        self._fails_at = fails_at

    def expert(self, name: str) -> Expert:
        return Oracle() if name == "oracle" else Coin()

    def versions(self) -> Mapping[str, str]:
        return {"cue": "1.0"}

    def make_vector_env(self, count: int) -> VectorEnv:
        fails_at = self._fails_at if count == self.options.envs else None
        self.opened.append(CueWorlds(count, fails_at))
        return self.opened[-1]


class Cues(TaskStream):
    """Two such worlds."""

    @attrs.frozen
    class Config(RolloutOptions):
        """Options."""

        fails_at: int | None = option(None, "step in which the environments of training fail")

    recipe = {"epochs": 1.0, "batch": 20, "lr": 1e-2, "precision": "fp32"}
    inputs = {"cue": (4,)}

    def __init__(self, config: Config, seed: int) -> None:
        self._config = config

    def tasks(self) -> Sequence[CueTask]:
        return [CueTask(f"t{k}", self._config, self._config.fails_at) for k in range(2)]


class Counting(Base):
    """(4,) to (8,); notes how many rows it was given."""

    Config = RolloutOptions

    def __init__(self, config: RolloutOptions | None = None, inputs: InputShapes | None = None) -> None:
        super().__init__()
        self.shape = (8,)
        self.linear = nn.Linear(4, 8)
        self.rows: list[int] = []

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        self.rows.append(len(inputs["cue"]))
        return Features(self.linear(inputs["cue"]).tanh())
