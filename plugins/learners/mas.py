"""Memory aware synapses (MAS): fine-tuning with a penalty on weights that the outputs depend on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Batch, Components, Task, Trainable, TrainingStep, at_least, option

from ._one_pass import one_pass
from .ewc.fisher import chunks, distinct
from .ewc.learner import QuadraticPenalty, shared_weights
from .ewc.per_example import GradientSums, flat
from .finetune import FineTune


class MAS(FineTune):
    """Fine-tuning with a quadratic penalty towards the weights after the latest task (Aljundi et al., ECCV
    2018).

    The loss is ``task + coef * sum_i O_i (w_i - w*_i)**2`` (eq. 4) over the shared weights i: those of the
    base, side and merger, with ``w*`` the weights after the latest task. Heads are not among them, except in
    the scenarios ``domain`` and ``class``, in which tasks share the output layer. The importance
    ``O_i`` is the sum over earlier tasks of the mean over training inputs x of ``|d ||F(x)||**2 / d w_i|``
    (eq. 3, with the squared norm of the outputs F, sec. 4.1), which needs no labels. F are the outputs for
    the task before the softmax; in the scenario ``class`` those of all classes so far.

    As in `EWC`, the penalty does not cover BatchNorm's running statistics: with ``batchnorm`` trained they
    are those of the latest task for every `coef`.
    """

    @attrs.frozen
    class Config(FineTune.Config):
        """Options of `MAS`."""

        coef: float = option(1.0, "weight of the penalty (lambda in the paper)", at_least(0))
        examples: int | None = option(
            None, "largest number of a task's training examples for its importance; none: all", at_least(1)
        )

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        self.pull = QuadraticPenalty(flat(shared_weights(self)))
        self._config = config

    def start(self, task: Task) -> Trainable:
        trainable = super().start(task)
        self.pull.grow(sum(weight.numel() for weight in shared_weights(self).values()))
        return trainable

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        losses = {**super().losses(batch, task, step)}
        if len(self.heads.task_ids) > 1:
            losses["pull"] = self._config.coef * self.pull(flat(shared_weights(self)))
        return losses

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        weights = shared_weights(self)
        importance = self._importance(task, batches)
        self.pull.replace(flat(weights).detach(), importance, decay=1.0)

    def _importance(self, task: Task, batches: Iterator[Batch]) -> Tensor:
        """(P,), the mean over examples of the absolute gradients of the squared norm of the output."""
        weights = shared_weights(self)
        sums = GradientSums(self, lambda inputs: (inputs, task.id), weights, power=1)
        total, count = torch.zeros_like(flat(weights)), 0
        limit = self._config.examples
        examples = one_pass(task, batches) if limit is None else distinct(batches, limit)
        for chunk in chain.from_iterable(chunks(batch, sums) for batch in examples):
            total += sums.sum(chunk.inputs, lambda output, rows: 2 * output[:, None])
            count += len(chunk.ids)
        return total / count
