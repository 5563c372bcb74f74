"""Behaviour cloning as a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Batch, Inputs, Order, Outputs, Predict, Shape, Task, shuffled
from sidetune_core.demonstrations import Trajectories
from sidetune_core.rl import Actor, Categorical, Episode, Observations, RolloutTask

EVALUATION_BATCH = 250


@attrs.frozen
class CloningOptions:
    """Evaluation and head of the tasks, see the options of env 'imitation'."""

    eval_episodes: int
    num_envs: int
    deterministic_eval: bool
    metric: Literal["success", "return"]
    hidden_size: int
    hidden_layers: int


class ImitationTask(Task):
    """Predicts the expert's action in each recorded step (Pomerleau, ALVINN, NIPS 1988).

    Args:
        id: see `Task`.
        rollout_task: the recorded task, in which the policy is evaluated; its evaluation options are
            replaced.
        training: trajectories to train on.
        validation: held-out trajectories, which come before those in the recording.
        first_id: id of the first step of the recording.
        options: of evaluation and head.
        env: the name of the recorded env.
    """

    def __init__(
        self,
        id: str,
        rollout_task: RolloutTask,
        training: Trajectories,
        validation: Trajectories,
        first_id: int,
        options: CloningOptions,
        env: str = "",
    ) -> None:
        self.id, self.title, self.inputs = id, rollout_task.title, rollout_task.inputs
        self.metric = options.metric
        self._is_classification = (
            isinstance(rollout_task.policy, Categorical) and rollout_task.policy.width == 1
        )
        self.outputs = Outputs("logits" if self._is_classification else "regression")
        self._rollout_task, self._options, self._env = rollout_task, options, env
        self.time_limit = rollout_task.time_limit
        self._training, self._validation, self._first_id = training, validation, first_id
        rollout_task.options = rollout_task.options.with_evaluation(
            options.num_envs, options.eval_episodes, options.deterministic_eval
        )
        rollout_task.update_statistics(training.observations)

    @property
    def eval_episodes(self) -> int:
        """Number of episodes of an evaluation."""
        return self._options.eval_episodes

    @property
    def deterministic_eval(self) -> bool:
        """Whether evaluations take the most likely actions."""
        return self._options.deterministic_eval

    def make_head(self, shape: Shape) -> nn.Module:
        options = self._options
        return Actor(shape, self._rollout_task.policy, options.hidden_size, options.hidden_layers)

    def training_size(self) -> int:
        return len(self._training.actions)

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, round(self.training_size() / batch_size))

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        first = self._first_id + len(self._validation.actions)
        for indices in shuffled(len(self._training.actions), order, self.id):
            yield self._batch(self._training, indices, first)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood of the expert's action, in nats."""
        return -self._rollout_task.policy.log_prob(output.float(), batch.targets)

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Mean return, success rate and mean length of rollouts, and the mean loss on the held-out steps.

        For discrete actions also `agreement`, the fraction of held-out steps in which the most likely action
        is the expert's.
        """
        metrics = self._rollout_task.evaluate(_with_value(predict), split)
        count, loss, agreed = len(self._validation.actions), 0.0, 0.0
        for first in range(0, count, EVALUATION_BATCH):
            indices = torch.arange(first, min(first + EVALUATION_BATCH, count))
            batch = self._batch(self._validation, indices, self._first_id)
            output = predict(batch.inputs).cpu()
            loss += float(self.loss(output, batch).sum())
            agreed += float((self._rollout_task.policy.mode(output) == batch.targets).all(1).sum())
        metrics = {**metrics, "loss": loss / count}
        return {**metrics, "agreement": agreed / count} if self._is_classification else metrics

    def play(self, predict: Predict, episodes: int, **options: Any) -> Iterator[Episode]:
        """See `RolloutTask.play`."""
        return self._rollout_task.play(_with_value(predict), episodes, **options)

    def network_inputs(self, observations: Observations) -> Inputs:
        """See `RolloutTask.network_inputs`."""
        return self._rollout_task.network_inputs(observations)

    def state(self) -> dict[str, Any]:
        """The statistics of the recorded observations."""
        return self._rollout_task.state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._rollout_task.set_state(state)

    def card(self) -> Mapping[str, Any]:
        """That of the recorded task, with this task's head; empty if its policy is not one of the core's."""
        recorded = self._rollout_task.card()
        if not recorded:
            return {}
        return {
            **recorded,
            "recorded_env": self._env,
            "critic": False,
            "hidden_size": self._options.hidden_size,
            "hidden_layers": self._options.hidden_layers,
        }

    def _batch(self, trajectories: Trajectories, indices: Tensor, first: int) -> Batch:
        ids = indices + first
        observations = {name: value[indices] for name, value in trajectories.observations.items()}
        return Batch(ids, self._rollout_task.prepare(observations, ids), trajectories.actions[indices])


def _with_value(predict: Predict) -> Predict:
    """Outputs with a column for the value, which evaluations ignore."""

    def padded(inputs: Inputs) -> Tensor:
        output = predict(inputs)
        return torch.cat([output, output.new_zeros(len(output), 1)], 1)

    return padded
