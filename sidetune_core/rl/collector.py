"""Collects rollouts: T steps of the current policy in E environments, as training examples for PPO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.rl.distributions import Policy, check_policy
from sidetune_core.rl.episode_stats import Episode, EpisodeStatistics
from sidetune_core.rl.masks import mask_invalid, mask_of
from sidetune_core.rl.memory import POSITION, STATE, Memory, positions
from sidetune_core.rl.normalization import ObservationNormalizer
from sidetune_core.rl.ppo import RolloutBatch, gae
from sidetune_core.rl.rollout_config import RolloutConfig
from sidetune_core.rl.vector_env import Observations, Step, VectorEnv, check_finite
from sidetune_core.seeding import derive_seed
from sidetune_core.system.signals import HangGuard


@attrs.frozen(eq=False)
class Rollout:
    """The T * E rows of a rollout."""

    ids: Tensor
    """(T * E,)"""
    observations: Observations
    """(T * E, *shape) by input name, standardised."""
    targets: Tensor
    """(T * E, width + 4), see `RolloutBatch.packed`."""
    window: int
    """See `FrameIds.window`."""
    context: Mapping[str, Tensor]
    """(T * E, ...): see `Inputs.context`; empty for a policy without memory."""
    episodes: Sequence[Episode]
    """The episodes that ended during the rollout."""
    update: int
    """Index of the rollout within the task."""
    rewards: Tensor
    """(T, E), without values of final observations."""
    ended: Tensor
    """(T, E) float: 1 where the episode ended in that step."""
    truncated: Tensor
    """(T, E) bool: where the value of the final observation is added to the reward."""
    final: Observations
    """(n, *shape) by input name, standardised: the final observations of `truncated`."""
    last: Observations
    """(E, *shape) by input name, standardised: after the last step."""
    last_ids: Tensor
    """(E,)"""


@attrs.frozen
class FrameIds:
    """Ids of the frames of a task's training.

    The frame after the last step of a rollout is the first frame of the next one.
    """

    seed: int
    num_envs: int
    rollout_length: int
    kept_rollouts: int = 1
    """Number of rollouts that are trained on."""

    @property
    def window(self) -> int:
        """Number of frames that are used again, including those after the last step of the latest rollout."""
        return (self.kept_rollouts * self.rollout_length + 1) * self.num_envs

    def ids(self, update: int) -> Tensor:
        """Ids (T + 1, E) of the frames before each step of a rollout, and of those after the last one; two
        tasks share ids with a probability of 2**-31."""
        first = (self.seed % 2**31 << 32) + update * self.rollout_length * self.num_envs
        count = (self.rollout_length + 1) * self.num_envs
        return torch.arange(first, first + count).view(-1, self.num_envs)


class RolloutCollector:
    """Steps the training environments of a task with the current policy.

    Args:
        task: the task that the environments belong to.
        vector_env: the environments.
        policy: the family of distributions over actions.
        config: see `RolloutConfig`.
        normalizer: standardises observations and scales rewards; its statistics include those of training.
        seed: of actions, episodes and ids of frames.
        update: index of the first rollout.
        guard: of steps of the environments.
    """

    def __init__(
        self,
        task: Task,
        vector_env: VectorEnv,
        policy: Policy,
        config: RolloutConfig,
        normalizer: ObservationNormalizer,
        seed: int,
        update: int,
        guard: HangGuard | None = None,
    ) -> None:
        self._task, self._vector_env, self._policy, self._normalizer = task, vector_env, policy, normalizer
        self._guard = guard or HangGuard()
        self._ppo, self._seed, self._update = config.ppo, seed, update
        frames_seed = derive_seed(seed, "frames", task.id)
        length, kept = self._ppo.rollout_length, self._ppo.kept_rollouts
        self._frame_ids = FrameIds(frames_seed, config.num_envs, length, kept)
        with self._guard:
            first = vector_env.reset(derive_seed(seed, "episodes", task.id, update))
        self._observations = normalizer.update_and_standardise(first)
        self._discounted = torch.zeros(config.num_envs)
        self._statistics = EpisodeStatistics(config.num_envs)
        self._memory = Memory(config.ppo.memory, config.num_envs)

    def collect(self, predict: Predict) -> Rollout:
        """The next rollout. If an error ends it, the statistics of the normalizer are restored.

        Raises:
            Diverged: an output of the policy is not finite.
            RunError: an environment returned a value that is not finite.
        """
        state = self._normalizer.state()
        try:
            return self._collect(predict)
        except BaseException:
            self._normalizer.set_state(state)
            raise

    def _collect(self, predict: Predict) -> Rollout:
        length, update = self._ppo.rollout_length, self._update
        ids = self._frame_ids.ids(update)
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "actions", self._task.id, update))
        frames: list[Observations] = []
        episodes: list[Episode] = []
        masks: list[Tensor] = []
        states: list[Tensor] = []
        size = self._policy.size
        columns: list[tuple[Tensor, ...]] = []
        final: list[Observations] = []
        for number in range(length):
            states.append(self._memory.state)
            output = self._predict_step(predict, ids[number])
            self._memory.update(output, self._policy)
            when = f"step {update * length + number + 1} of training"
            parameters = output[:, :size]
            check_policy(self._policy, parameters, self._task.title, when)
            mask = mask_of(self._observations, self._policy)
            parameters = mask_invalid(self._policy, parameters, mask, self._task.title, when)
            masks.extend([] if mask is None else [mask])
            actions = self._policy.sample(parameters, generator)
            with self._guard:
                step = self._vector_env.step(actions)
            check_finite(step, self._task.title, when)
            rewards, self._discounted = self._normalizer.scale_rewards(
                step.rewards, step.ended, self._discounted, self._ppo.gamma
            )
            frames.append(self._observations)
            truncated, cut = self._truncated(step)
            worth = rewards
            if cut:
                final.append(cut)
                inputs = self._memory.context_of(self._normalizer.inputs(cut), truncated)
                values = predict(inputs).cpu()[:, -1]
                worth = rewards.masked_scatter(truncated, rewards[truncated] + self._ppo.gamma * values)
            columns.append((output, actions, rewards, worth, step.ended, truncated))
            self._memory.reset(step.ended)
            episodes.extend(episode for _, episode in self._statistics.update(step))
            self._observations = self._normalizer.update_and_standardise(step.observations)
        last = self._predict_step(predict, ids[length])[:, -1]
        outputs, actions, rewards, worth, ended, truncated = (
            torch.stack(column) for column in zip(*columns, strict=True)
        )
        values, ended = outputs[:, :, -1], ended.float()
        advantages = gae(worth, values, last, ended, self._ppo.gamma, self._ppo.gae_lambda)
        actions, parameters = actions.flatten(0, 1), outputs[:, :, :size].flatten(0, 1)
        all_masks = torch.cat(masks) if masks else None
        parameters = mask_invalid(self._policy, parameters, all_masks)
        batch = RolloutBatch(
            actions=actions,
            log_probs=self._policy.log_prob(parameters, actions),
            advantages=advantages.flatten(),
            returns=(advantages + values).flatten(),
            values=values.flatten(),
            masks=all_masks,
        )
        observations = {
            name: torch.stack([frame[name] for frame in frames]).flatten(0, 1)
            for name in self._normalizer.names
        }
        context = (
            {STATE: torch.cat(states), POSITION: positions(ended > 0).flatten()} if self._memory.size else {}
        )
        self._update += 1
        return Rollout(
            ids=ids[:-1].flatten(),
            observations=observations,
            targets=batch.packed(),
            window=self._frame_ids.window,
            context=context,
            episodes=episodes,
            update=update,
            rewards=rewards,
            ended=ended,
            truncated=truncated,
            final={name: torch.cat([cut[name] for cut in final]) for name in observations} if final else {},
            last=self._observations,
            last_ids=ids[length],
        )

    def _predict_step(self, predict: Predict, ids: Tensor) -> Tensor:
        """Parameters and value (E, policy.size + 1) for the current observations, of ids (E,)."""
        inputs = self._normalizer.inputs(self._observations, ids, self._frame_ids.window)
        return predict(self._memory.context_of(inputs)).cpu()

    def _truncated(self, step: Step) -> tuple[Tensor, Observations]:
        """Where episodes were truncated, (E,), and their final observations, standardised; empty if none
        were."""
        if not step.final_observations:
            return torch.zeros_like(step.truncated), {}
        truncated = step.truncated & ~step.terminated
        if not truncated.any():
            return truncated, {}
        rows = truncated[step.ended]
        final = {name: value[rows] for name, value in step.final_observations.items()}
        return truncated, self._normalizer.standardised(final)
