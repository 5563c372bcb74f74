"""Gathering experience: what a policy lives through in E environments, T steps at a time, as rows to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.rl.distributions import Policy
from sidetune_core.rl.episode_stats import Episode, EpisodeStatistics
from sidetune_core.rl.normalization import ObservationNormalizer
from sidetune_core.rl.ppo import RolloutBatch, RolloutOptions, gae
from sidetune_core.rl.vector_env import Observations, Step, VectorEnv, check_finite
from sidetune_core.seeding import derive_seed


@attrs.frozen(eq=False)
class Rollout:
    """The rows of a rollout, T * E of them."""

    ids: Tensor
    """(T * E,)"""
    observations: Observations
    """(T * E, *shape), standardised."""
    targets: Tensor
    """(T * E, width + 4), see `RolloutBatch.packed`."""
    window: int
    """See `FrameIds.window`."""
    episodes: Sequence[Episode]
    """Those that ended in it."""
    update: int
    """Its number."""


@attrs.frozen
class FrameIds:
    """Ids of the frames of a training. The frame after the last of a rollout is the first of the next one."""

    seed: int
    envs: int
    rollout: int

    @property
    def window(self) -> int:
        """A rollout's frames, and those after its last step."""
        return (self.rollout + 1) * self.envs

    def ids(self, update: int, number: int) -> Tensor:
        """Of the frames in step `number` of a rollout, (E,): unique over trainings but for a chance of 2**-31."""
        first = (self.seed % 2**31 << 32) + (update * self.rollout + number) * self.envs
        return torch.arange(first, first + self.envs)


class RolloutCollector:
    """The environments of a training, and where they are.

    Args:
        task: whose environments they are.
        worlds: the environments.
        policy: the family of distributions over actions.
        options: see `RolloutOptions`.
        scaling: how observations and rewards are brought to scale; it sees those of training.
        seed: of the order of examples: actions, new episodes and ids of frames follow from it.
        update: the number of the first rollout to be taken.
    """

    def __init__(
        self,
        task: Task,
        vector_env: VectorEnv,
        policy: Policy,
        options: RolloutOptions,
        normalizer: ObservationNormalizer,
        seed: int,
        update: int,
    ) -> None:
        self._task, self._vector_env, self._policy, self._options, self._normalizer = (
            task,
            vector_env,
            policy,
            options,
            normalizer,
        )
        self._seed, self._update = seed, update
        self._frame_ids = FrameIds(derive_seed(seed, "frames", task.id), options.envs, options.rollout)
        self._now = normalizer.arrived(vector_env.reset(derive_seed(seed, "episodes", task.id, update)))
        self._discounted = torch.zeros(options.envs)
        self._statistics = EpisodeStatistics(options.envs)

    def collect(self, predict: Predict) -> Rollout:
        """A rollout from where the environments are. If it comes to nothing, the statistics of `normalizer` are as they were before.

        Raises:
            RunError: an environment gave a number that is not finite.
        """
        held = self._normalizer.state()
        try:
            return self._collect(predict)
        except BaseException:
            self._normalizer.set_state(held)
            raise

    def _collect(self, predict: Predict) -> Rollout:
        options, frame_ids, update = self._options, self._frame_ids, self._update
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "actions", self._task.id, update))
        frames: list[Observations] = []
        episodes: list[Episode] = []
        columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for number in range(options.rollout):
            output = predict(
                self._normalizer.inputs(self._now, frame_ids.ids(update, number), frame_ids.window)
            ).cpu()
            actions = self._policy.sample(output[:, :-1], generator)
            step = self._vector_env.step(actions)
            check_finite(step, self._task.title, f"step {update * options.rollout + number + 1} of training")
            rewards, self._discounted = self._normalizer.rewards(
                step.rewards, step.ended, self._discounted, options.gamma
            )
            frames.append(self._now)
            columns.append((output, actions, self._bootstrap_truncated(predict, step, rewards), step.ended))
            episodes.extend(episode for _, episode in self._statistics.count(step))
            self._now = self._normalizer.arrived(step.observations)
        last = predict(
            self._normalizer.inputs(self._now, frame_ids.ids(update, options.rollout), frame_ids.window)
        ).cpu()[:, -1]
        outputs, actions, rewards, ended = (torch.stack(column) for column in zip(*columns, strict=True))
        values = outputs[:, :, -1]
        advantages = gae(rewards, values, last, ended.float(), options.gamma, options.gae_lambda)
        actions, parameters = actions.flatten(0, 1), outputs[:, :, :-1].flatten(0, 1)
        decisions = RolloutBatch(
            actions=actions,
            log_probs=self._policy.log_prob(parameters, actions),
            advantages=advantages.flatten(),
            returns=(advantages + values).flatten(),
            values=values.flatten(),
        )
        observations = {
            name: torch.stack([frame[name] for frame in frames]).flatten(0, 1)
            for name in self._normalizer.names
        }
        ids = torch.cat([frame_ids.ids(update, number) for number in range(options.rollout)])
        self._update += 1
        return Rollout(ids, observations, decisions.packed(), frame_ids.window, episodes, update)

    def _bootstrap_truncated(self, predict: Predict, step: Step, rewards: Tensor) -> Tensor:
        """Rewards (E,) with the discounted value of what would have come after a time limit."""
        cut = step.truncated & ~step.terminated
        if not step.final or not cut.any():
            return rewards
        final = self._normalizer.standardised(
            {name: value[cut[step.ended]] for name, value in step.final.items()}
        )
        return rewards.masked_scatter(
            cut, rewards[cut] + self._options.gamma * predict(self._normalizer.inputs(final)).cpu()[:, -1]
        )
