"""Behaviour cloning as a task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Batch, Inputs, Order, Predict, Shape, Task, shuffled
from sidetune_core.demonstrations import Trajectories
from sidetune_core.rl import Actor, Categorical, RolloutTask

EVALUATION_BATCH = 250


@attrs.frozen
class Acting:
    """How it is measured, and with which head; see the options of env 'imitation'."""

    episodes: int
    envs: int
    evaluate: Literal["mode", "sample"]
    metric: Literal["success", "return"]
    hidden: int
    layers: int


class ImitationTask(Task):
    """Do in each recorded step what the expert did (Pomerleau, ALVINN, NIPS 1988).

    Args:
        id: see `Task`.
        world: in which the expert has acted, and the policy will.
        learnt: trajectories to learn from.
        held_out: others, that come before those in the recording.
        first_id: id of the first step of the recording.
        acting: how it is measured, and with which head.
    """

    def __init__(
        self,
        id: str,
        world: RolloutTask,
        learnt: Trajectories,
        held_out: Trajectories,
        first_id: int,
        acting: Acting,
    ) -> None:
        self.id, self.title, self.inputs = id, world.title, world.inputs
        self.metric = acting.metric
        self._choices = isinstance(world.policy, Categorical) and world.policy.width == 1
        self.outputs = "scores" if self._choices else "numbers"
        self._world, self._learnt, self._held_out, self._first_id, self._acting = (
            world,
            learnt,
            held_out,
            first_id,
            acting,
        )
        world.options = attrs.evolve(
            world.options, episodes=acting.episodes, envs=acting.envs, evaluate=acting.evaluate
        )
        world.see(learnt.observations)

    def make_head(self, shape: Shape) -> nn.Module:
        return Actor(shape, self._world.policy, self._acting.hidden, self._acting.layers)

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, round(len(self._learnt.actions) / batch_size))

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        first = self._first_id + len(self._held_out.actions)
        for places in shuffled(len(self._learnt.actions), order, self.id):
            yield self._batch(self._learnt, places, first)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """The negative log-likelihood of the expert's action, in nats."""
        return -self._world.policy.log_prob(output.float(), batch.targets)

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Mean return, share of successes and mean length of episodes; mean loss on the held-out steps, and for choices `agreement`: in
        what share of them the most likely action is the expert's."""
        figures = self._world.evaluate(_with_value(predict), split)
        count, loss, same = len(self._held_out.actions), 0.0, 0.0
        for first in range(0, count, EVALUATION_BATCH):
            batch = self._batch(
                self._held_out, torch.arange(first, min(first + EVALUATION_BATCH, count)), self._first_id
            )
            output = predict(batch.inputs).cpu()
            loss += float(self.loss(output, batch).sum())
            same += float((self._world.policy.mode(output) == batch.targets).all(1).sum())
        return {**figures, "loss": loss / count, **({"agreement": same / count} if self._choices else {})}

    def _batch(self, some: Trajectories, places: Tensor, first: int) -> Batch:
        ids = places + first
        rows = {name: value[places] for name, value in some.observations.items()}
        return Batch(ids, self._world.prepare(rows, ids), some.actions[places])


def _with_value(predict: Predict) -> Predict:
    """Outputs with a column for the value, which acting needs none of."""

    def acted(inputs: Inputs) -> Tensor:
        output = predict(inputs)
        return torch.cat([output, output.new_zeros(len(output), 1)], 1)

    return acted
