"""An env that is solved in a second: a cue says which of two actions is rewarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, DataError, Features, InputShapes, TaskStream, option
from sidetune_core.rl import Categorical, Expert, Observations, RolloutConfig, RolloutTask, Step, VectorEnv

LENGTH = 5
"""Steps after which an episode is truncated."""


class CueVectorEnv:
    """``cue`` (4,): a one-hot cue of two, the time, and the number of all steps.

    Reward 1 for the action of the cue.
    """

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.count, self.steps, self.fails_at = count, 0, fails_at
        self.closed = False

    def reset(self, seed: int) -> Mapping[str, Tensor]:
        self.generator = torch.Generator().manual_seed(seed)
        self.time = torch.zeros(self.count)
        self.cue = self._draw()
        return self._observe()

    def step(self, actions: Tensor) -> Step:
        self.steps += 1
        if self.steps == self.fails_at:
            raise DataError("the environment is broken")
        rewards = (actions[:, 0] == self.cue).float()
        self.time += 1
        self.cue = self._draw()
        truncated = self.time == LENGTH
        final = {name: value[truncated] for name, value in self._observe().items()} if truncated.any() else {}
        self.time[truncated] = 0
        return Step(self._observe(), rewards, torch.zeros_like(truncated), truncated, rewards > 0, final)

    def close(self) -> None:
        self.closed = True

    def _draw(self) -> Tensor:
        return torch.randint(2, (self.count,), generator=self.generator)

    def _observe(self) -> Mapping[str, Tensor]:
        cue = torch.nn.functional.one_hot(self.cue, 2).float()
        return {
            "cue": torch.cat([cue, self.time.view(-1, 1), torch.full((self.count, 1), float(self.steps))], 1)
        }


class Oracle:
    """An expert that takes the action of the cue."""

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        pass

    def act(self, observations: Observations) -> Tensor | None:
        return observations["cue"][:, :2].argmax(1, keepdim=True).float()


class Coin:
    """An expert that acts at random, and aborts an episode with a probability of one half."""

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.is_heads = bool(torch.randint(2, (1,), generator=self.generator))

    def act(self, observations: Observations) -> Tensor | None:
        return torch.randint(2, (1, 1), generator=self.generator).float() if self.is_heads else None


class CueTask(RolloutTask):
    """`opened` has all environments that were created."""

    experts = ("oracle", "coin")

    def __init__(self, id: str, options: RolloutConfig, fails_at: int | None = None) -> None:
        super().__init__(id, f"cue {id}", {"cue": (4,)}, {}, Categorical([2]), options)
        self.opened: list[CueVectorEnv] = []
        self._fails_at = fails_at

    def expert(self, name: str) -> Expert:
        return Oracle() if name == "oracle" else Coin()

    def versions(self) -> Mapping[str, str]:
        return {"cue": "1.0"}

    def make_vector_env(self, count: int) -> VectorEnv:
        fails_at = self._fails_at if count == self.options.num_envs else None
        self.opened.append(CueVectorEnv(count, fails_at))
        return self.opened[-1]


class Cues(TaskStream):
    """Two cue tasks."""

    @attrs.frozen
    class Config(RolloutConfig):
        """Options."""

        fails_at: int | None = option(None, "step in which the training environments fail")

    recipe = {"epochs": 1.0, "batch_size": 20, "lr": 1e-2, "device.precision": "fp32"}
    inputs = {"cue": (4,)}

    def __init__(self, config: Config, seed: int) -> None:
        self._config = config

    def tasks(self) -> Sequence[CueTask]:
        return [CueTask(f"t{k}", self._config, self._config.fails_at) for k in range(2)]


class Counting(Base):
    """(4,) to (8,); counts the rows of its inputs."""

    Config = RolloutConfig

    def __init__(self, config: RolloutConfig | None = None, inputs: InputShapes | None = None) -> None:
        super().__init__()
        self.shape = (8,)
        self.linear = nn.Linear(4, 8)
        self.rows: list[int] = []

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        self.rows.append(len(inputs["cue"]))
        return Features(self.linear(inputs["cue"]).tanh())
