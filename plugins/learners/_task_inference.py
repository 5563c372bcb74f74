"""Prediction without a task id by networks that belong to one task each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor

from sidetune_core.api import (
    Batch,
    BufferDict,
    Components,
    Heads,
    Learner,
    OptionError,
    Task,
    joint_scores,
    option,
    task_scores,
)

from ._common import NormOptions
from ._one_pass import one_pass


@attrs.frozen
class InferenceOptions(NormOptions):
    """Options of a learner with a network for each task."""

    task_inference: Literal["max-softmax", "energy", "entropy", "nearest-mean"] = option(
        "max-softmax",
        "without a task id (scenarios domain and class), the task is inferred by the largest class "
        "probability, the largest log-sum-exp of the logits (energy), the smallest entropy, or the nearest "
        "class mean of the frozen base's encodings",
    )


class PerTaskNetworks(Learner):
    """A learner in which each task is predicted by a network of its own.

    In the scenarios ``domain`` and ``class`` tasks are trained as with a task id, each on its own classes.
    Without one, all networks predict: `joint_scores` has the definition. A task that is started and not yet
    trained takes part with its random head. With ``nearest-mean``, the score of a task is the negative
    squared distance of the base's encoding, averaged over positions, to the nearest mean of its classes
    (Mensink et al., TPAMI 2013). `finish` stores these means; a task without them is not inferred, and while
    no task has them, the rule is max-softmax.

    Args:
        config: has the rule.
        components: have the scenario.

    Raises:
        OptionError: a rule is chosen in the scenario ``task``.
    """

    scenarios = frozenset({"task", "domain", "class"})
    heads: Heads

    def __init__(self, config: InferenceOptions, components: Components) -> None:
        super().__init__()
        self._rule = config.task_inference
        if components.scenario == "task" and self._rule != "max-softmax":
            raise OptionError(
                f"--learner.task-inference {self._rule} infers a task that is not known, and in the scenario "
                "'task' it is; leave it out, or choose --scenario class or domain"
            )
        if self._rule == "nearest-mean":
            self.means = ClassMeans()

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        if task_id is not None or self.scenario == "task":
            return super().predict(inputs, task_id)
        outputs = [self(inputs, started) for started in self.heads.task_ids]
        return joint_scores(outputs, self._task_scores(inputs, outputs), self.scenario)

    def _task_scores(self, inputs: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> Tensor | None:
        """(B, T), of the tasks; None where their log-probabilities are compared as they are."""
        rule = self._rule
        if rule == "nearest-mean":
            if self.means:
                return self.means.scores(self.frozen_encoding(inputs), self.heads.task_ids)
            rule = "max-softmax"
        return None if rule == "max-softmax" and self.scenario == "class" else task_scores(outputs, rule)

    def frozen_encoding(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The base's encoding (B, *base.shape)."""
        base = self.get_submodule("base")
        encoding: Tensor = base(inputs).encoding
        return encoding

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        if self._rule == "nearest-mean":
            self.means.estimate(self, task, batches)


class ClassMeans(BufferDict):
    """Means of the classes of each finished task, by its id: (classes, C)."""

    def estimate(self, learner: PerTaskNetworks, task: Task, batches: Iterator[Batch]) -> None:
        """The means over the training examples of a task, each counted once."""
        assert task.outputs.size is not None  # see the scenarios of `PerTaskNetworks`
        sums, counts = Tensor(), torch.zeros(task.outputs.size)
        for batch in one_pass(task, batches):
            with torch.no_grad():
                encodings = pooled(learner.frozen_encoding(batch.inputs))
            if not len(sums):
                sums = encodings.new_zeros(task.outputs.size, encodings.shape[1])
                counts = counts.to(encodings)
            sums.index_add_(0, batch.targets, encodings)
            counts += torch.bincount(batch.targets, minlength=len(counts))
        means = sums / counts[:, None]
        self[task.id] = torch.where(counts[:, None] > 0, means, torch.inf)  # a class without examples is far

    def scores(self, encoding: Tensor, task_ids: Sequence[str]) -> Tensor:
        """(B, T), of the tasks; those without means have minus infinity."""
        points = pooled(encoding)
        far = points.new_full((len(points),), -torch.inf)
        scores = [
            -(points[:, None] - self[id]).square().sum(2).amin(1) if id in self else far for id in task_ids
        ]
        return torch.stack(scores, 1)


def pooled(encoding: Tensor) -> Tensor:
    """(B, C) in float32 from encodings (B, C), (B, L, C) or (B, C, H, W), averaged over positions."""
    encoding = encoding.float()
    if encoding.ndim == 2:
        return encoding
    return encoding.mean((2, 3)) if encoding.ndim == 4 else encoding.mean(1)
