"""Gathering experience: what a policy lives through in E environments, T steps at a time, as rows to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.interfaces.tasks import Act, Task
from sidetune_core.rl.distributions import Policy
from sidetune_core.rl.episode_stats import Episode, Tally
from sidetune_core.rl.normalization import Scaling
from sidetune_core.rl.ppo import Decisions, RolloutOptions, gae
from sidetune_core.rl.vector_env import Observations, Step, Worlds, check_finite
from sidetune_core.seeding import derive_seed


@attrs.frozen(eq=False)
class Rollout:
    """The rows of a rollout, T * E of them."""

    ids: Tensor
    """(T * E,)"""
    observations: Observations
    """(T * E, *shape), standardised."""
    targets: Tensor
    """(T * E, width + 4), see `Decisions.packed`."""
    window: int
    """See `Film.window`."""
    episodes: Sequence[Episode]
    """Those that ended in it."""
    update: int
    """Its number."""


@attrs.frozen
class Film:
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


class Gatherer:
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
        worlds: Worlds,
        policy: Policy,
        options: RolloutOptions,
        scaling: Scaling,
        seed: int,
        update: int,
    ) -> None:
        self._task, self._worlds, self._policy, self._options, self._scaling = (
            task,
            worlds,
            policy,
            options,
            scaling,
        )
        self._seed, self._update = seed, update
        self._film = Film(derive_seed(seed, "frames", task.id), options.envs, options.rollout)
        self._now = scaling.arrived(worlds.reset(derive_seed(seed, "episodes", task.id, update)))
        self._discounted = torch.zeros(options.envs)
        self._tally = Tally(options.envs)

    def gather(self, act: Act) -> Rollout:
        """A rollout from where the environments are. If it comes to nothing, the statistics of `scaling` are as they were before.

        Raises:
            RunError: an environment gave a number that is not finite.
        """
        held = self._scaling.state()
        try:
            return self._gather(act)
        except BaseException:
            self._scaling.set_state(held)
            raise

    def _gather(self, act: Act) -> Rollout:
        options, film, update = self._options, self._film, self._update
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "actions", self._task.id, update))
        frames: list[Observations] = []
        episodes: list[Episode] = []
        columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for number in range(options.rollout):
            output = act(self._scaling.inputs(self._now, film.ids(update, number), film.window)).cpu()
            actions = self._policy.sample(output[:, :-1], generator)
            step = self._worlds.step(actions)
            check_finite(step, self._task.title, f"step {update * options.rollout + number + 1} of training")
            rewards, self._discounted = self._scaling.rewards(
                step.rewards, step.ended, self._discounted, options.gamma
            )
            frames.append(self._now)
            columns.append((output, actions, self._past_time_limits(act, step, rewards), step.ended))
            episodes.extend(episode for _, episode in self._tally.count(step))
            self._now = self._scaling.arrived(step.observations)
        last = act(self._scaling.inputs(self._now, film.ids(update, options.rollout), film.window)).cpu()[
            :, -1
        ]
        outputs, actions, rewards, ended = (torch.stack(column) for column in zip(*columns, strict=True))
        values = outputs[:, :, -1]
        advantages = gae(rewards, values, last, ended.float(), options.gamma, options.gae_lambda)
        actions, parameters = actions.flatten(0, 1), outputs[:, :, :-1].flatten(0, 1)
        decisions = Decisions(
            actions=actions,
            log_probs=self._policy.log_prob(parameters, actions),
            advantages=advantages.flatten(),
            returns=(advantages + values).flatten(),
            values=values.flatten(),
        )
        observations = {
            name: torch.stack([frame[name] for frame in frames]).flatten(0, 1) for name in self._scaling.names
        }
        ids = torch.cat([film.ids(update, number) for number in range(options.rollout)])
        self._update += 1
        return Rollout(ids, observations, decisions.packed(), film.window, episodes, update)

    def _past_time_limits(self, act: Act, step: Step, rewards: Tensor) -> Tensor:
        """Rewards (E,) with the discounted value of what would have come after a time limit."""
        cut = step.truncated & ~step.terminated
        if not step.final or not cut.any():
            return rewards
        final = self._scaling.standardised(
            {name: value[cut[step.ended]] for name, value in step.final.items()}
        )
        return rewards.masked_scatter(
            cut, rewards[cut] + self._options.gamma * act(self._scaling.inputs(final)).cpu()[:, -1]
        )
