"""Tasks that are trained by PPO on rollouts of the current policy.

A rollout task works with every learner: it gets the learner's output as `predict`, and the learner sees
ordinary batches.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol, Self, runtime_checkable

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.errors import OptionError, RunError
from sidetune_core.interfaces.former_names import former_members
from sidetune_core.interfaces.inputs import Inputs, InputShapes, Shape
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task
from sidetune_core.rl.collector import RolloutCollector
from sidetune_core.rl.distributions import ActorCritic, Policy, check_policy
from sidetune_core.rl.episode_stats import Episode, EpisodeStatistics, means
from sidetune_core.rl.masks import mask_invalid, mask_of
from sidetune_core.rl.memory import Memory, RecurrentActorCritic
from sidetune_core.rl.normalization import ObservationNormalizer
from sidetune_core.rl.policy_handler import PolicyValues, describe_policy
from sidetune_core.rl.ppo import RolloutBatch, ppo_loss
from sidetune_core.rl.replay import ReplayBuffer, Rows
from sidetune_core.rl.rollout_config import RolloutConfig
from sidetune_core.rl.vector_env import (
    Expert,
    Image,
    Observations,
    RenderedVectorEnv,
    VectorEnv,
    check_finite,
)
from sidetune_core.seeding import derive_seed
from sidetune_core.system.signals import HangGuard, guard_hangs

RECENT_EPISODES = 100
"""Number of training episodes that logged returns are averaged over."""

EVALUATION_SEED = 0
"""Independent of the run's seed, so that every run is evaluated on the same episodes."""

MAX_EVAL_STEPS = 10_000
"""Steps after which episodes of evaluations are truncated where the environments have no time limit."""

ShowFrames = Callable[[int, Sequence[Image], float], None]
"""Takes the index of an environment, its frames since the previous call, and frames per second."""


@runtime_checkable
class Playable(Protocol):
    """A task whose policy acts in environments: episodes of it can be played."""

    time_limit: int | None
    """See `RolloutTask.time_limit`."""

    @property
    def eval_episodes(self) -> int:
        """Number of episodes of an evaluation."""

    @property
    def deterministic_eval(self) -> bool:
        """Whether evaluations take the most likely actions."""

    def card(self) -> Mapping[str, Any]:
        """See `RolloutTask.card`."""

    def play(
        self,
        predict: Predict,
        episodes: int,
        *,
        seed: int = EVALUATION_SEED,
        deterministic: bool | None = None,
        max_steps: int | None = None,
        show: ShowFrames | None = None,
    ) -> Iterator[Episode]:
        """See `RolloutTask.play`."""


@runtime_checkable
class TakesObservations(Protocol):
    """A task whose network inputs are computed from observations, with statistics of training."""

    def network_inputs(self, observations: Observations) -> Inputs:
        """See `RolloutTask.network_inputs`."""


@former_members(
    make_worlds="make_vector_env", make_test_worlds="make_test_vector_env", see="update_statistics"
)
class RolloutTask(Task):
    """A reinforcement-learning task: PPO on rollouts of E environments by T steps.

    A batch is `order.batch_size` rows of the latest rollout. An update is ``ppo.epochs`` passes over it, in
    batches of equal size and a new order in each pass; then the next rollout is collected with the current
    policy. Every row is used in every pass. ``ppo.replay_epochs`` adds passes over earlier rollouts too (see
    `ReplayBuffer`), which are not checkpointed. Random numbers are functions of (seed, task, update). Frames
    have ids, so a frozen base encodes each of them once.

    Where an episode is truncated, the discounted value of its final observation is added to the last reward
    (Pardo et al., Time Limits in Reinforcement Learning, ICML 2018).

    The state of environments is not checkpointed: a run resumes at an update, with new episodes.

    Args:
        id: see `Task`.
        title: see `Task`.
        inputs: see `Task`.
        units: divisors of the observations, by input name, such as 255 for images of bytes; 1 where a name is
            absent.
        policy: the family of distributions over its actions.
        options: see `RolloutConfig`.
    """

    metric = "return"
    experts: tuple[str, ...] = ()
    """Names of the experts that can be recorded, the default first; a subclass that has any implements
    `expert`."""
    not_restored = "environment state is not checkpointed; episodes in progress restart"
    time_limit: int | None = None
    """Steps after which the environments truncate an episode; None if they have no limit, or it is not
    known."""

    def __init__(
        self,
        id: str,
        title: str,
        inputs: InputShapes,
        units: Mapping[str, float],
        policy: Policy,
        options: RolloutConfig,
    ) -> None:
        if isinstance(options, RolloutConfig):  # those of version 0.1 have no presets
            options = options.with_preset()
        self.id, self.title, self.inputs, self.policy, self.options = id, title, inputs, policy, options
        ppo, self._units = options.ppo, units
        ppo.check()
        self._normalizer = ObservationNormalizer(
            inputs, units, ppo.normalise_observations, ppo.normalise_rewards
        )
        self._episodes: deque[Episode] = deque(maxlen=RECENT_EPISODES)
        self._loss_metrics: dict[str, Tensor] = {}

    @property
    def eval_episodes(self) -> int:
        """Number of episodes of an evaluation."""
        return self.options.eval_episodes

    @property
    def deterministic_eval(self) -> bool:
        """Whether evaluations take the most likely actions."""
        return self.options.deterministic_eval

    @abstractmethod
    def make_vector_env(self, count: int) -> VectorEnv:
        """New training environments; the caller closes them."""

    def make_test_vector_env(self, count: int) -> VectorEnv:
        """New evaluation environments, by default like those of training; environment k plays the k-th part
        of the episodes."""
        return self.make_vector_env(count)

    def make_rendered_vector_env(self, count: int) -> RenderedVectorEnv:
        """Environments like those of `make_test_vector_env` that also keep frames to show.

        Raises:
            OptionError: they cannot be rendered.
        """
        raise OptionError(f"the environment of {self.title} cannot be rendered, so there is no video of it")

    def limited(self, max_steps: int) -> Self:
        """This task with episodes that are truncated after at most `max_steps`, if the environments can."""
        return self

    def expert(self, name: str) -> Expert:
        """One of `experts`.

        Raises:
            OptionError: it cannot act under these options.
        """
        raise NotImplementedError(
            f"{type(self).__name__} lists experts {self.experts} and does not implement expert()"
        )

    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that define the environments, by name; demonstrations record them."""
        return {}

    def make_head(self, shape: Shape) -> nn.Module:
        ppo = self.options.ppo
        if ppo.memory:
            return RecurrentActorCritic(shape, self.policy, ppo.hidden_size, ppo.hidden_layers, ppo.memory)
        return ActorCritic(shape, self.policy, ppo.hidden_size, ppo.hidden_layers)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of batches in ``options.frames`` frames, rounded up to whole rollouts."""
        updates = -(-self.options.frames // (self.options.num_envs * self.options.ppo.rollout_length))
        return updates * self._steps_per_update(batch_size)

    def can_resume_at(self, step: int, batch_size: int) -> bool:
        return step % self._steps_per_update(batch_size) == 0

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        steps = self._steps_per_update(order.batch_size)
        update, offset = divmod(order.first_step, steps)
        if offset:
            raise RunError(
                f"task {self.id} ({self.title}) can resume only at multiples of {steps} steps, where a "
                "rollout begins"
            )
        with guard_hangs() as guard, closing(self._open_training(guard)) as vector_env:
            collector = RolloutCollector(
                self, vector_env, self.policy, self.options, self._normalizer, order.seed, update, guard
            )
            replay = ReplayBuffer(self.options.ppo, self._normalizer, self.id, order.seed)
            while True:
                rollout = collector.collect(predict)
                self._episodes.extend(rollout.episodes)
                for rows in replay.update(rollout, predict, order.batch_size):
                    yield self._batch(rows, rollout.window)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """See `ppo_loss`; (B,)."""
        old = RolloutBatch.unpacked(batch.targets, self.policy)
        losses, self._loss_metrics = ppo_loss(output, old, self.policy, self.options.ppo)
        return losses

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Mean undiscounted return, mean length in steps, success rate, and means of the environment's
        further metrics.

        Every environment plays an equal part of ``options.eval_episodes``, so that short episodes do not
        count more. Without a time limit, episodes are truncated after `MAX_EVAL_STEPS`.
        """
        max_steps = MAX_EVAL_STEPS if self.time_limit is None else None
        return means(list(self.play(predict, self.options.eval_episodes, max_steps=max_steps)))

    def play(
        self,
        predict: Predict,
        episodes: int,
        *,
        seed: int = EVALUATION_SEED,
        deterministic: bool | None = None,
        max_steps: int | None = None,
        show: ShowFrames | None = None,
    ) -> Iterator[Episode]:
        """Play episodes, and yield each as it ends. Those of the options' number and the default seed are
        those of `evaluate`.

        Args:
            predict: the policy.
            episodes: their number; min(num_envs, episodes) environments play equal parts of it.
            seed: of episodes and sampled actions.
            deterministic: whether to take the most likely actions, and not to sample; None for
                ``options.deterministic_eval``.
            max_steps: truncate longer episodes. An environment that cannot do so itself (see `limited`) plays
                no further episode then.
            show: gets frames of each environment that still plays.

        Raises:
            OptionError: frames are requested, and the environments cannot be rendered.
            Diverged: the policy's outputs are not finite.
            RunError: an environment failed, or returned a value that is not finite.
        """
        task = self if max_steps is None else self.limited(max_steps)
        count = min(self.options.num_envs, episodes)
        if deterministic is None:
            deterministic = self.options.deterministic_eval
        if (episodes, deterministic) != (self.options.eval_episodes, self.options.deterministic_eval):
            task = copy.copy(task)
            task.options = self.options.with_evaluation(self.options.num_envs, episodes, deterministic)
        vector_env = (
            task.make_test_vector_env(count) if show is None else task.make_rendered_vector_env(count)
        )
        with guard_hangs() as guard, closing(vector_env):
            yield from task._play(predict, vector_env, count, seed, max_steps, show, guard)

    def _play(
        self,
        predict: Predict,
        vector_env: VectorEnv,
        count: int,
        seed: int,
        max_steps: int | None,
        show: ShowFrames | None,
        guard: HangGuard,
    ) -> Iterator[Episode]:
        """`play` under the task's own evaluation options."""
        total = self.options.eval_episodes
        generator = torch.Generator().manual_seed(derive_seed(seed, "actions", self.id))
        remaining = [total // count + (k < total % count) for k in range(count)]
        with guard:
            first = vector_env.reset(derive_seed(seed, "episodes", self.id))
        observations = self._normalizer.standardised(first)
        statistics = EpisodeStatistics(count)
        memory = Memory(self.options.ppo.memory, count)
        while any(remaining):
            output = predict(memory.context_of(self._normalizer.inputs(observations))).cpu()
            memory.update(output, self.policy)
            parameters = output[:, : self.policy.size]
            when = f"step {statistics.steps + 1} of evaluation"
            check_policy(self.policy, parameters, self.title, when)
            mask = mask_of(observations, self.policy)
            parameters = mask_invalid(self.policy, parameters, mask, self.title, when)
            actions = self.choose_actions(parameters, generator)
            with guard:
                step = vector_env.step(actions)
            check_finite(step, self.title, when)
            observations = self._normalizer.standardised(step.observations)
            ended = statistics.update(step)
            memory.reset(step.ended)
            if show is not None:
                _show(vector_env, show, remaining, {env for env, _ in ended})
            for env, episode in ended:
                if remaining[env] > 0:
                    remaining[env] -= 1
                    yield episode
            for env in statistics.longest(max_steps):
                if remaining[env] > 0:
                    remaining[env] = 0
                    yield statistics.cut(env)

    def choose_actions(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Actions (B, width) of an evaluation: the most likely ones, or samples if
        ``options.deterministic_eval`` is off."""
        if self.options.deterministic_eval:
            return self.policy.mode(parameters)
        return self.policy.sample(parameters, generator)

    def record(self) -> dict[str, float]:
        """Means over recent training episodes, and metrics of the PPO loss (see `ppo_loss`)."""
        metrics = {name: float(value) for name, value in self._loss_metrics.items()}
        return metrics | (means(list(self._episodes)) if self._episodes else {})

    def state(self) -> dict[str, Any]:
        return self._normalizer.state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._normalizer.set_state(state)

    def card(self) -> Mapping[str, Any]:
        """What a `PolicyHandler` needs; an env adds what its own handler needs. Empty if the policy is not
        one of the core's families."""
        policy = describe_policy(self.policy)
        if policy is None:
            return {}
        values = PolicyValues(
            policy=policy,
            units={name: float(unit) for name, unit in self._units.items()},
            normalise_observations=self.options.ppo.normalise_observations,
            deterministic_eval=self.options.deterministic_eval,
            critic=True,
            hidden_size=self.options.ppo.hidden_size,
            hidden_layers=self.options.ppo.hidden_layers,
            memory=self.options.ppo.memory,
            evaluation={
                "episodes": self.options.eval_episodes,
                "num_envs": min(self.options.num_envs, self.options.eval_episodes),
                "seed": derive_seed(EVALUATION_SEED, "episodes", self.id) % 2**31,
                "actions_seed": derive_seed(EVALUATION_SEED, "actions", self.id),
            },
        )
        return attrs.asdict(values)

    def prepare(self, observations: Observations, ids: Tensor | None = None) -> Inputs:
        """Network inputs for raw observations (B, *shape)."""
        return self._normalizer.inputs(self._normalizer.standardised(observations), ids)

    def network_inputs(self, observations: Observations) -> Inputs:
        """Network inputs for observations (B, *shape) that a user gives: as `prepare`, but images of floats
        are taken as they are, already divided by their unit."""
        return self._normalizer.of_observations(observations)

    def update_statistics(self, observations: Observations) -> None:
        """Include raw observations (B, *shape) of training in the running statistics."""
        self._normalizer.update(observations)

    def _open_training(self, guard: HangGuard) -> VectorEnv:
        with guard:
            return self.make_vector_env(self.options.num_envs)

    def _steps_per_update(self, batch_size: int) -> int:
        num_envs, ppo = self.options.num_envs, self.options.ppo
        rows = num_envs * ppo.rollout_length
        if rows % batch_size:
            raise OptionError(
                f"--train.batch-size {batch_size} does not divide a rollout of {num_envs} environments x "
                f"{ppo.rollout_length} steps = {rows} rows; PPO uses every row in batches of equal size: "
                f"--train.batch-size {self._fitting(batch_size)}"
            )
        if ppo.memory and batch_size % ppo.rollout_length:
            raise OptionError(
                f"--train.batch-size {batch_size} is no multiple of --env.ppo.rollout-length "
                f"{ppo.rollout_length}; with --env.ppo.memory, batches are made of whole sequences: "
                f"--train.batch-size {self._fitting(batch_size)}"
            )
        if ppo.memory and (ppo.replay_epochs or ppo.recompute_advantages):
            raise OptionError(
                "--env.ppo.memory trains on the latest rollout alone, whose states are those of the policy: "
                "leave out --env.ppo.replay-epochs and --env.ppo.recompute-advantages"
            )
        return (ppo.epochs + ppo.replay_epochs) * (rows // batch_size)

    def _fitting(self, batch_size: int) -> int:
        """The largest batch size up to one that divides a rollout, in whole sequences if the policy has
        memory; the smallest if none does."""
        num_envs, ppo = self.options.num_envs, self.options.ppo
        unit, rows = ppo.rollout_length if ppo.memory else 1, num_envs * ppo.rollout_length
        sizes = [size for size in range(unit, rows + 1, unit) if rows % size == 0]
        return max((size for size in sizes if size <= batch_size), default=unit)

    def _batch(self, rows: Rows, window: int) -> Batch:
        targets = rows.targets
        if self.options.ppo.normalise_advantages:
            targets = RolloutBatch.unpacked(targets, self.policy).standardised().packed()
        inputs = self._normalizer.inputs(rows.observations, rows.ids, window)
        return Batch(rows.ids, attrs.evolve(inputs, context=rows.context), targets)


def _show(vector_env: VectorEnv, show: ShowFrames, remaining: Sequence[int], ended: Collection[int]) -> None:
    """Show the frames of each environment that still plays; the first one of an episode that is not to be
    played is left out."""
    assert isinstance(vector_env, RenderedVectorEnv)
    for env, frames in enumerate(vector_env.take_frames()):
        is_last = remaining[env] == 1 and env in ended
        if remaining[env] > 0:
            show(env, frames[:-1] if is_last else frames, vector_env.frames_per_second)
