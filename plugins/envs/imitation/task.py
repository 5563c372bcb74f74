"""Behaviour cloning as a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Batch,
    Inputs,
    OptionError,
    Order,
    Outputs,
    Predict,
    Shape,
    Task,
    derive_seed,
    shuffled,
)
from sidetune_core.demonstrations import Labelled, MakeExpert, Trajectories, label_episodes
from sidetune_core.rl import (
    Actor,
    Categorical,
    Episode,
    Observations,
    RecurrentActor,
    RolloutConfig,
    RolloutTask,
    mask_invalid,
    mask_of,
)

from .windows import Windows

EVALUATION_BATCH = 250

LABELLED_BITS = 32
"""Ids of labelled steps are above those of recorded ones."""


@attrs.frozen
class CloningOptions:
    """Evaluation and head of the tasks, see the options of env 'imitation'."""

    eval_episodes: int
    num_envs: int
    deterministic_eval: bool
    metric: Literal["success", "return"]
    hidden_size: int
    hidden_layers: int
    memory: int = 0
    memory_window: int = 16


@attrs.frozen
class DAggerOptions:
    """Rounds of DAgger (Ross, Gordon & Bagnell, AISTATS 2011, algorithm 3.1 with beta = 1 in the recorded
    trajectories and 0 afterwards): before each round the policy plays episodes, and the expert's actions in
    all steps that it visits are added to the training data."""

    rounds: int = 0
    """0 for behaviour cloning."""
    interval: int = 200
    """Training steps before the first round, and between two rounds."""
    episodes: int = 10
    """Of each round."""
    make_expert: MakeExpert | None = None


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
        dagger: rounds in which the expert labels what the policy visits.
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
        dagger: DAggerOptions = DAggerOptions(),
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
        self._dagger, self._rounds = dagger, list[Labelled]()
        rollout_task.options = rollout_task.options.with_evaluation(
            options.num_envs, options.eval_episodes, options.deterministic_eval
        )
        self._windows = _make_windows(training, options)
        if rollout_task.options.ppo.memory != options.memory:  # it is that of this task's head
            if not isinstance(rollout_task.options, RolloutConfig):
                raise OptionError(
                    f"--env.memory: the env '{env}' has options of version 0.1, without memory; leave it out"
                )
            ppo = attrs.evolve(rollout_task.options.ppo, memory=options.memory)
            rollout_task.options = attrs.evolve(rollout_task.options, ppo=ppo)
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
        options, policy = self._options, self._rollout_task.policy
        if options.memory:
            return RecurrentActor(shape, policy, options.hidden_size, options.hidden_layers, options.memory)
        return Actor(shape, policy, options.hidden_size, options.hidden_layers)

    def training_size(self) -> int:
        return len(self._training.actions)

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, round(self.training_size() / batch_size))

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        """Batches of the recorded steps; with DAgger, from each round on, of all labelled steps as well. With
        memory, of windows of the trajectories (see `Windows`)."""
        if self._windows is not None:
            yield from self._window_batches(self._windows, predict, order)
        dagger, step = self._dagger, order.first_step
        while True:
            due = min(step // dagger.interval, dagger.rounds)
            while len(self._rounds) < due:
                self._rounds.append(self._label(predict, order.seed))
            latest = len(self._rounds)
            begun = latest * dagger.interval
            last = latest >= dagger.rounds
            count = None if last else max(begun + dagger.interval - step, 0)
            own = attrs.evolve(order, first_step=max(step - begun, 0))
            yield from islice(self._round_batches(own, latest), count)
            step = begun + dagger.interval

    def can_resume_at(self, step: int, batch_size: int) -> bool:
        """Anywhere; with memory, where the states of the windows are refreshed."""
        return self._windows is None or step % self._windows.interval(batch_size) == 0

    def _window_batches(self, windows: Windows, predict: Predict, order: Order) -> Iterator[Batch]:
        """Batches of whole windows, without end. Their first states are those of the policy at the beginning
        of the pass."""
        interval = windows.interval(order.batch_size)
        own = attrs.evolve(order, batch_size=windows.per_batch(order.batch_size))
        first = self._first_id + len(self._validation.actions)

        def inputs(rows: Tensor) -> Inputs:
            return self._batch(self._training, rows, first).inputs

        for step, chosen in enumerate(shuffled(len(windows), own, self.id), order.first_step):
            if step % interval == 0 or step == order.first_step:
                windows.refresh(predict, inputs, self._rollout_task.policy)
            rows = windows.rows(chosen)
            batch = self._batch(self._training, rows, first)
            yield attrs.evolve(batch, inputs=windows.add_context(batch.inputs, rows))

    def _label(self, predict: Predict, seed: int) -> Labelled:
        """The next round."""
        dagger = self._dagger
        assert dagger.make_expert is not None
        return label_episodes(
            self._rollout_task,
            _with_value(predict),
            dagger.make_expert,
            dagger.episodes,
            derive_seed(seed, "dagger", self.id, len(self._rounds)),
        )

    def _round_batches(self, order: Order, latest: int) -> Iterator[Batch]:
        """Batches of the recorded steps and those of the first `latest` rounds."""
        rounds = self._rounds[:latest]
        recorded = len(self._training.actions)
        observations, actions = self._training.observations, self._training.actions
        ids = torch.arange(recorded) + self._first_id + len(self._validation.actions)
        if rounds:
            observations = _joined([observations, *(labelled.observations for labelled in rounds)])
            actions = torch.cat([actions, *(labelled.actions for labelled in rounds)])
            labelled_ids = (self._first_id + 1 << LABELLED_BITS) + torch.arange(len(actions) - recorded)
            ids = torch.cat([ids, labelled_ids])
        names = (self.id, "round", latest) if rounds else (self.id,)
        for rows in shuffled(len(actions), order, *names):
            chosen = {name: value[rows] for name, value in observations.items()}
            targets = self._targets(chosen, actions[rows])
            yield Batch(ids[rows], self._rollout_task.prepare(chosen, ids[rows]), targets)

    def record(self) -> dict[str, float]:
        """With DAgger: rounds, labelled steps, and how often the expert was asked so far."""
        return self._expert_metrics()

    def _expert_metrics(self) -> dict[str, float]:
        if not self._dagger.rounds:
            return {}
        return {
            "dagger_rounds": len(self._rounds),
            "labelled_steps": sum(len(labelled.actions) for labelled in self._rounds),
            "expert_queries": sum(labelled.queries for labelled in self._rounds),
            "aborted": sum(labelled.aborted for labelled in self._rounds),
        }

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood of the expert's action, in nats."""
        actions, mask = self._unpacked(batch.targets)
        policy = self._rollout_task.policy
        return -policy.log_prob(mask_invalid(policy, output[:, : policy.size].float(), mask), actions)

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """Mean return, success rate and mean length of rollouts, and the mean loss on the held-out steps.

        For discrete actions also `agreement`, the fraction of held-out steps in which the most likely action
        is the expert's.
        """
        metrics = self._rollout_task.evaluate(_with_value(predict), split)
        policy = self._rollout_task.policy
        count, loss, agreed = len(self._validation.actions), 0.0, 0.0
        for batch, output in self._held_out(predict):
            loss += float(self.loss(output, batch).sum())
            actions, mask = self._unpacked(batch.targets)
            likely = policy.mode(mask_invalid(policy, output[:, : policy.size], mask))
            agreed += float((likely == actions).all(1).sum())
        metrics = {**metrics, "loss": loss / count, **self._expert_metrics()}
        return {**metrics, "agreement": agreed / count} if self._is_classification else metrics

    def _held_out(self, predict: Predict) -> Iterator[tuple[Batch, Tensor]]:
        """The held-out steps with their outputs; a state is carried through each trajectory."""
        validation, options = self._validation, self._options

        def batch(rows: Tensor) -> Batch:
            return self._batch(validation, rows, self._first_id)

        if options.memory:
            windows = Windows(validation.lengths, EVALUATION_BATCH, options.memory)
            unrolled = windows.unroll(predict, lambda rows: batch(rows).inputs, self._rollout_task.policy)
            for rows, output in unrolled:
                yield batch(rows), output
        else:
            for rows in torch.split(torch.arange(len(validation.actions)), EVALUATION_BATCH):
                examples = batch(rows)
                yield examples, predict(examples.inputs).cpu()

    def play(self, predict: Predict, episodes: int, **options: Any) -> Iterator[Episode]:
        """See `RolloutTask.play`."""
        return self._rollout_task.play(_with_value(predict), episodes, **options)

    def network_inputs(self, observations: Observations) -> Inputs:
        """See `RolloutTask.network_inputs`."""
        return self._rollout_task.network_inputs(observations)

    def state(self) -> dict[str, Any]:
        """The statistics of the recorded observations; with DAgger, the labelled steps too."""
        state = self._rollout_task.state()
        if not self._dagger.rounds:
            return state
        return {"statistics": state, "rounds": [labelled.to_state() for labelled in self._rounds]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        if "rounds" in state:
            self._rounds = [Labelled.from_state(labelled) for labelled in state["rounds"]]
            state = state["statistics"]
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
            "memory": self._options.memory,
            "hidden_size": self._options.hidden_size,
            "hidden_layers": self._options.hidden_layers,
        }

    def _batch(self, trajectories: Trajectories, indices: Tensor, first: int) -> Batch:
        ids = indices + first
        observations = {name: value[indices] for name, value in trajectories.observations.items()}
        targets = self._targets(observations, trajectories.actions[indices])
        return Batch(ids, self._rollout_task.prepare(observations, ids), targets)

    def _targets(self, observations: Observations, actions: Tensor) -> Tensor:
        """Actions (B, width), followed by the mask of the actions if it was recorded."""
        mask = mask_of(observations, self._rollout_task.policy)
        return actions if mask is None else torch.cat([actions, mask.float()], 1)

    def _unpacked(self, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Actions, and the mask if there is one."""
        width = self._rollout_task.policy.width
        mask = targets[:, width:]
        return targets[:, :width], mask != 0 if mask.shape[1] else None


def _make_windows(training: Trajectories, options: CloningOptions) -> Windows | None:
    """Those of a policy with memory; None for one without."""
    if not options.memory:
        return None
    return Windows(training.lengths, options.memory_window, options.memory)


def _joined(tables: Sequence[Observations]) -> Observations:
    return {name: torch.cat([table[name] for table in tables]) for name in tables[0]}


def _with_value(predict: Predict) -> Predict:
    """Outputs with a column for the value, which evaluations ignore."""

    def padded(inputs: Inputs) -> Tensor:
        output = predict(inputs)
        return torch.cat([output, output.new_zeros(len(output), 1)], 1)

    return padded
