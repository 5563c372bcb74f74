"""Tasks that gather their own experience: rollouts of the current policy, learnt from by PPO (see `ppo`).

A task knows no learner, and no learner knows that it is in such a task.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from sidetune_core.errors import OptionError, RunError
from sidetune_core.interfaces.inputs import Inputs, InputShapes, Shape
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task, shuffled
from sidetune_core.rl.collector import Rollout, RolloutCollector
from sidetune_core.rl.distributions import ActorCritic, Policy
from sidetune_core.rl.episode_stats import Episode, EpisodeStatistics, means
from sidetune_core.rl.normalization import ObservationNormalizer
from sidetune_core.rl.ppo import RolloutBatch, RolloutOptions, ppo_loss
from sidetune_core.rl.vector_env import Expert, Observations, VectorEnv, check_finite
from sidetune_core.seeding import derive_seed

RECENT = 100
"""Episodes of training that the recorded return is a mean over."""

EVALUATION_SEED = 0
"""Not the run's: every run is evaluated on the same episodes."""


class RolloutTask(Task):
    """A task in which a policy acts: PPO on rollouts of E environments by T steps.

    A batch is `order.batch_size` rows of the latest rollout. An update is `passes` passes over it, in batches of equal size and an order
    of its own for each pass; then the next rollout is gathered, with the policy as it is by then. Every row is learnt from in every pass.
    Random numbers are functions of (seed, task, update). Frames have ids, and each is encoded by a frozen base once, in all passes.

    Where an episode is cut off by a time limit, the value of its last observation, discounted, is added to the last reward, since the
    episode would have gone on (Pardo et al., Time Limits in Reinforcement Learning, ICML 2018).

    The state of environments cannot be saved: a run goes on at an update, with new episodes.

    Args:
        id: see `Task`.
        title: see `Task`.
        inputs: see `Task`.
        units: by input name, what an observation is divided by: 255 for bytes of an image; 1 where a name is absent.
        policy: the family of distributions over its actions.
        options: see `RolloutOptions`.
    """

    metric = "return"
    experts: tuple[str, ...] = ()
    """Names of those who can be imitated in it, the usual one first; a subclass that names any has `expert`."""
    not_restored = (
        "environments cannot be saved: the episodes that were under way are given up, and new ones begin"
    )

    def __init__(
        self,
        id: str,
        title: str,
        inputs: InputShapes,
        units: Mapping[str, float],
        policy: Policy,
        options: RolloutOptions,
    ) -> None:
        self.id, self.title, self.inputs, self.policy, self.options = id, title, inputs, policy, options
        self._normalizer = ObservationNormalizer(
            inputs, units, options.normalise_observations, options.normalise_rewards
        )
        self._episodes: deque[Episode] = deque(maxlen=RECENT)
        self._figures: dict[str, Tensor] = {}

    @abstractmethod
    def make_vector_env(self, count: int) -> VectorEnv:
        """New environments; they are closed when they are no longer needed."""

    def make_test_vector_env(self, count: int) -> VectorEnv:
        """New environments to evaluate in, for a task that has others for that: number k plays the k-th share of the episodes."""
        return self.make_vector_env(count)

    def expert(self, name: str) -> Expert:
        """One of `experts`.

        Raises:
            OptionError: it cannot act under these options.
        """
        raise NotImplementedError(
            f"{type(self).__name__} names experts {self.experts} and does not define expert()"
        )

    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that its worlds come from, by name: what is recorded in others may be something else."""
        return {}

    def make_head(self, shape: Shape) -> nn.Module:
        return ActorCritic(shape, self.policy, self.options.hidden, self.options.layers)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches of as many whole rollouts as have `options.frames` frames."""
        updates = -(-self.options.frames // (self.options.envs * self.options.rollout))
        return updates * self._steps_per_update(batch_size)

    def can_resume_at(self, step: int, batch_size: int) -> bool:
        return step % self._steps_per_update(batch_size) == 0

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        steps = self._steps_per_update(order.batch_size)
        update, within = divmod(order.first_step, steps)
        if within:
            raise RunError(
                f"task {self.id} ({self.title}) goes on at every {steps}th step only, where a rollout begins"
            )
        with closing(self.make_vector_env(self.options.envs)) as vector_env:
            collector = RolloutCollector(
                self, vector_env, self.policy, self.options, self._normalizer, order.seed, update
            )
            while True:
                rollout = collector.collect(predict)
                self._episodes.extend(rollout.episodes)
                places = shuffled(
                    len(rollout.ids), Order(order.seed, order.batch_size), self.id, "update", rollout.update
                )
                yield from (self._batch(rollout, some) for some in islice(places, steps))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """See `ppo_loss`; (B,)."""
        losses, self._figures = ppo_loss(
            output, RolloutBatch.unpacked(batch.targets), self.policy, self.options
        )
        return losses

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Mean return (undiscounted, as the environment gives it), length in steps, share of successes, and means of what else the
        environment measures, over `options.episodes`.

        Every environment plays its share of the episodes, so that short ones do not count more than long ones.
        """
        count = min(self.options.envs, self.options.episodes)
        generator = torch.Generator().manual_seed(derive_seed(EVALUATION_SEED, "actions", self.id))
        left = torch.tensor(
            [self.options.episodes // count + (k < self.options.episodes % count) for k in range(count)]
        )
        episodes: list[Episode] = []
        with closing(self.make_test_vector_env(count)) as vector_env:
            now = self._normalizer.standardised(
                vector_env.reset(derive_seed(EVALUATION_SEED, "episodes", self.id))
            )
            statistics = EpisodeStatistics(count)
            while (left > 0).any():
                parameters = predict(self._normalizer.inputs(now)).cpu()[:, :-1]
                actions = (
                    self.policy.mode(parameters)
                    if self.options.evaluate == "mode"
                    else self.policy.sample(parameters, generator)
                )
                step = vector_env.step(actions)
                check_finite(step, self.title, f"step {statistics.steps + 1} of evaluation")
                now = self._normalizer.standardised(step.observations)
                for place, episode in statistics.count(step):
                    if left[place] > 0:
                        episodes.append(episode)
                        left[place] -= 1
        return means(episodes)

    def record(self) -> dict[str, float]:
        """Means over the latest episodes of training, and how far the policy has moved from the one that gathered the rollout."""
        figures = {name: float(value) for name, value in self._figures.items()}
        return figures | (means(list(self._episodes)) if self._episodes else {})

    def state(self) -> dict[str, Any]:
        return self._normalizer.state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._normalizer.set_state(state)

    def prepare(self, observations: Observations, ids: Tensor | None = None) -> Inputs:
        """What a network is given for observations (B, *shape) as the worlds give them."""
        return self._normalizer.inputs(self._normalizer.standardised(observations), ids)

    def see(self, observations: Observations) -> None:
        """Let running statistics take observations (B, *shape) of training into account."""
        self._normalizer.see(observations)

    def _steps_per_update(self, batch_size: int) -> int:
        rows = self.options.envs * self.options.rollout
        if rows % batch_size:
            raise OptionError(
                f"--train.batch-size {batch_size} does not divide a rollout, {self.options.envs} environments by {self.options.rollout} steps "
                f"= {rows} rows; every row is to be learnt from in batches of one size"
            )
        return self.options.passes * (rows // batch_size)

    def _batch(self, rollout: Rollout, places: Tensor) -> Batch:
        """Some rows of a rollout."""
        targets = rollout.targets[places]
        if self.options.normalise_advantages:
            targets = RolloutBatch.unpacked(targets).standardised().packed()
        rows = {name: value[places] for name, value in rollout.observations.items()}
        ids = rollout.ids[places]
        return Batch(ids, self._normalizer.inputs(rows, ids, rollout.window), targets)
