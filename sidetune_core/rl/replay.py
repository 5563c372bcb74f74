"""The rollouts that an update of PPO trains on: the latest one, and earlier ones that are replayed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice

import attrs
import torch
from torch import Tensor

from sidetune_core.interfaces.tasks import Order, Predict, shuffled
from sidetune_core.rl.collector import Rollout
from sidetune_core.rl.normalization import ObservationNormalizer
from sidetune_core.rl.ppo import PPOOptions, RolloutBatch, gae
from sidetune_core.rl.vector_env import Observations
from sidetune_core.seeding import derive_seed

ROWS_AT_ONCE = 1024
"""Observations in a forward pass that recomputes values."""


@attrs.frozen(eq=False)
class Rows:
    """Rows of rollouts that make a batch."""

    ids: Tensor
    """(B,)"""
    observations: Observations
    """(B, *shape) by input name, standardised."""
    targets: Tensor
    """(B, width + 4), see `RolloutBatch.packed`."""
    context: Mapping[str, Tensor] = attrs.field(factory=dict)
    """(B, ...), see `Inputs.context`."""


class ReplayBuffer:
    """The latest rollouts of a task, ``options.replay_steps`` steps of each environment in all.

    An update has ``epochs`` passes over the latest rollout and ``replay_epochs`` passes of as many rows over
    all rollouts that are kept, in a random order of passes. Passes take no row again before all others of
    their kind, so every collected row is used. Where the policy has changed since rows were collected, the
    probability ratio of PPO is an importance weight, by the log-probabilities of collection.

    Args:
        options: of PPO.
        normalizer: makes network inputs.
        task_id: of the task.
        seed: of the order of rows and passes.
    """

    def __init__(
        self, options: PPOOptions, normalizer: ObservationNormalizer, task_id: str, seed: int
    ) -> None:
        self._options, self._normalizer = options, normalizer
        self._task_id, self._seed = task_id, seed
        self._rollouts: deque[Rollout] = deque(maxlen=options.kept_rollouts)

    def update(self, rollout: Rollout, predict: Predict, batch_size: int) -> Iterator[Rows]:
        """The batches of an update after a rollout.

        Args:
            rollout: the latest one.
            predict: the policy; see `PPOOptions.recompute_advantages`.
            batch_size: rows of a batch, a divisor of the rows of a rollout.
        """
        self._rollouts.append(rollout)
        count, kept = len(rollout.ids), list(self._rollouts)
        order = Order(self._seed, batch_size)
        latest = self._latest(rollout, batch_size)
        replayed = shuffled(count * len(kept), order, self._task_id, "replay", rollout.update)
        for number, is_replayed in enumerate(self._passes(rollout.update)):
            if number and self._options.recompute_advantages:
                kept = [self._recomputed(one, predict) for one in kept]
            source = kept if is_replayed else kept[-1:]
            for indices in islice(replayed if is_replayed else latest, count // batch_size):
                yield _rows(source, indices, count)

    def _latest(self, rollout: Rollout, batch_size: int) -> Iterator[Tensor]:
        """Indices of batches of a rollout; of a policy with memory, the sequences of some environments."""
        names = (self._task_id, "update", rollout.update)
        if not self._options.memory:
            return shuffled(len(rollout.ids), Order(self._seed, batch_size), *names)
        length, num_envs = rollout.rewards.shape
        sequences = shuffled(num_envs, Order(self._seed, batch_size // length), *names)
        steps = torch.arange(length) * num_envs
        return ((envs[:, None] + steps).flatten() for envs in sequences)

    def _passes(self, update: int) -> list[bool]:
        """Which passes of an update are replayed, in their order."""
        options = self._options
        kinds = [False] * options.epochs + [True] * options.replay_epochs
        if not options.replay_epochs:
            return kinds
        seed = derive_seed(self._seed, "passes", self._task_id, update)
        return [kinds[k] for k in torch.randperm(len(kinds), generator=torch.Generator().manual_seed(seed))]

    def _recomputed(self, rollout: Rollout, predict: Predict) -> Rollout:
        """A rollout with advantages, returns and values by the current critic."""
        num_envs = rollout.rewards.shape[1]
        values = torch.cat(
            [
                self._values(predict, rollout, slice(first, first + ROWS_AT_ONCE))
                for first in range(0, len(rollout.ids), ROWS_AT_ONCE)
            ]
        ).view(-1, num_envs)
        last = predict(self._normalizer.inputs(rollout.last, rollout.last_ids, rollout.window)).cpu()[:, -1]
        rewards = rollout.rewards
        if rollout.truncated.any():
            final = predict(self._normalizer.inputs(rollout.final)).cpu()[:, -1]
            worth = rewards[rollout.truncated] + self._options.gamma * final
            rewards = rewards.masked_scatter(rollout.truncated, worth)
        options = self._options
        advantages = gae(rewards, values, last, rollout.ended, options.gamma, options.gae_lambda)
        batch = attrs.evolve(
            RolloutBatch.unpacked(rollout.targets),
            advantages=advantages.flatten(),
            returns=(advantages + values).flatten(),
            values=values.flatten(),
        )
        return attrs.evolve(rollout, targets=batch.packed())

    def _values(self, predict: Predict, rollout: Rollout, rows: slice) -> Tensor:
        observations = {name: value[rows] for name, value in rollout.observations.items()}
        return predict(self._normalizer.inputs(observations, rollout.ids[rows], rollout.window)).cpu()[:, -1]


def _rows(rollouts: list[Rollout], indices: Tensor, count: int) -> Rows:
    """Rows by their indices in rollouts of `count` rows each, without a copy of all of them."""
    if len(rollouts) == 1:
        (one,) = rollouts
        observations = {name: value[indices] for name, value in one.observations.items()}
        context = {name: value[indices] for name, value in one.context.items()}
        return Rows(one.ids[indices], observations, one.targets[indices], context)
    ids, targets = _gathered([(one.ids, one.targets) for one in rollouts], indices, count)
    columns = [tuple(one.observations.values()) for one in rollouts]
    return Rows(
        ids, dict(zip(rollouts[0].observations, _gathered(columns, indices, count), strict=True)), targets
    )


def _gathered(columns: list[tuple[Tensor, ...]], indices: Tensor, count: int) -> list[Tensor]:
    gathered = [column.new_empty(len(indices), *column.shape[1:]) for column in columns[0]]
    for number, own in enumerate(columns):
        here = indices // count == number
        for target, column in zip(gathered, own, strict=True):
            target[here] = column[indices[here] - number * count]
    return gathered
