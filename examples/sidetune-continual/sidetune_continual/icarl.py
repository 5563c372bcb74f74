"""Incremental classifier and representation learning (iCaRL)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    BufferDict,
    Components,
    FitError,
    Learner,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    option,
)

from ._examples import INPUT, Columns, first_distinct, full_length, inputs_of, select

CHUNK = 256
"""Examples in a forward pass outside of training."""


class ICaRL(Learner):
    """Classifies by the nearest mean of exemplars, over the classes of all tasks (Rebuffi et al., iCaRL:
    Incremental Classifier and Representation Learning, CVPR 2017).

    - Training (algorithm 3): each class has a sigmoid output on the features. Over the examples of the task
      and the exemplars together, new classes have binary cross-entropy with the label, and old ones with the
      outputs of the network before the task. Each step uses one exemplar for each example of its batch; the
      two means are weighted by the numbers of exemplars and of training examples, which is the expectation of
      the paper's loss.
    - Exemplars (algorithms 4 and 5): at the end of a task, herding chooses those of its classes in order, and
      the sets of earlier classes are cut, so that there are `exemplars` in total.
    - Prediction (algorithm 1): the negative squared distance to each class's mean of exemplars. With the task
      given, over its classes; otherwise, over all. Until the latest task has exemplars, the sigmoid outputs.

    Features are the base's encoding, averaged over positions. All features and means have length 1.

    Outputs of the network before the task are computed in each step, on the inputs of the step, from a copy
    of it; in the paper once. Exemplars are stored as the network saw them, augmentation included.

    Raises:
        FitError: a task is not a classification of known size, or has more classes than there are exemplars.
    """

    @attrs.frozen
    class Config:
        """Options of `ICaRL`."""

        exemplars: int = option(2000, "stored examples of all classes together (K in the paper)", at_least(1))
        candidates: int = option(
            10_000, "largest number of a task's examples among which exemplars are chosen", at_least(1)
        )

    scenarios = frozenset({"task", "class"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = nn.ModuleDict()
        self.exemplars = BufferDict()
        """Columns ``label``, counted through the classes of all tasks, ``rank``, from 0 in each class, and
        inputs."""
        self.means = BufferDict()
        """By task id, (classes, C)."""
        self.teacher: nn.ModuleDict | None = None
        self._config, self._shapes = config, components.inputs
        self._drawn = torch.empty(0, dtype=torch.int64)
        """A row of the exemplars for each example of the step."""

    def start(self, task: Task) -> Trainable:
        size = task.outputs.size
        if task.outputs.kind != "logits" or size is None:
            raise FitError("learner 'icarl' needs tasks of classification that declare their classes")
        self.teacher = None
        if self.heads:
            self.teacher = copy.deepcopy(nn.ModuleDict({"base": self.base, "heads": self.heads}))
        shape = self.base.shape
        self.heads[task.id] = nn.Linear(shape[1] if len(shape) == 2 else shape[0], size)
        if self._config.exemplars < self._classes():
            raise FitError(f"learner 'icarl' needs exemplars for {self._classes()} classes")
        return [self.base, self.heads]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        logits: Tensor = self.heads[task_id](self._features(self.base, inputs))
        return logits

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        if batch.targets.ndim != 1 or batch.targets.is_floating_point():
            raise FitError("learner 'icarl' needs a class for each example")
        groups = [full_length(batch.inputs, self._shapes)]
        weights = torch.ones(1)
        if self.exemplars:
            stored = len(self.exemplars["label"])
            if step.micro_batch == 0:
                self._drawn = torch.randint(stored, (step.batch_size,))
            groups.append(inputs_of(select(self.exemplars, self._drawn[step.rows])))
            weights = torch.tensor([task.steps_per_epoch(1), stored])
        rows = {name: interleave([group[name] for group in groups]) for name in groups[0]}
        logits = _logits(self.heads, self._features(self.base, rows))
        size = classes(self.heads[task.id])
        targets = torch.zeros_like(logits)
        targets[:: len(groups), -size:] = functional.one_hot(batch.targets, size).to(targets)
        if self.teacher is not None:
            targets[:, :-size] = self._old_outputs(self.teacher, rows)
        terms = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        means = terms.view(-1, len(groups), logits.shape[1]).mean(0)  # of each group and class
        means = (weights / weights.sum()).to(means) @ means
        losses = {"loss": means[-size:].sum()}
        if self.teacher is not None:
            losses["distillation"] = means[:-size].sum()
        return losses

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        count = min(self._config.candidates, task.steps_per_epoch(1))
        candidates = first_distinct(batches, count, self._shapes)
        features = self._unit_features(candidates)
        size = classes(self.heads[task.id])
        limit = self._config.exemplars // self._classes()
        kept = [select(self.exemplars, self.exemplars["rank"] < limit)] if self.exemplars else []
        inputs = {name: candidates[name] for name in candidates if name.startswith(INPUT)}
        for label in range(size):
            rows = (candidates["target"] == label).nonzero()[:, 0]
            chosen = rows[herd(features[rows], limit)]
            columns = select(inputs, chosen)
            columns["label"] = torch.full_like(chosen, self._classes() - size + label)
            columns["rank"] = torch.arange(len(chosen)).to(chosen)
            kept.append(columns)
        self.exemplars.replace({name: torch.cat([columns[name] for columns in kept]) for name in kept[0]})
        self._update_means()

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        task_ids = list(self.heads) if task_id is None else [task_id]
        if not all(started in self.means for started in task_ids):
            return torch.cat([self(inputs, started) for started in task_ids], 1)
        features = functional.normalize(self._features(self.base, inputs), dim=1)
        means = torch.cat([self.means[started] for started in task_ids])
        distance = torch.cdist(features, means, compute_mode="donot_use_mm_for_euclid_dist")
        return -distance.square()

    def _classes(self) -> int:
        return sum(classes(head) for head in self.heads.values())

    def _old_outputs(self, teacher: nn.ModuleDict, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, old classes), the sigmoid outputs of the network before the task."""
        with torch.no_grad():
            return _logits(teacher["heads"], self._features(teacher["base"], inputs)).sigmoid()

    def _features(self, base: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, C) in float32."""
        encoding: Tensor = base(full_length(inputs, self._shapes)).encoding.float()
        if encoding.ndim == 2:
            return encoding
        return encoding.mean((2, 3)) if encoding.ndim == 4 else encoding.mean(1)

    def _unit_features(self, columns: Columns | BufferDict) -> Tensor:
        """(n, C), of length 1."""
        inputs = inputs_of(columns)
        chunks = zip(*(torch.split(values, CHUNK) for values in inputs.values()), strict=True)
        with torch.no_grad():
            features = [self._features(self.base, dict(zip(inputs, chunk, strict=True))) for chunk in chunks]
        return functional.normalize(torch.cat(features), dim=1)

    def _update_means(self) -> None:
        """Compute the mean of each class; that of a class without exemplars is far from all features."""
        features, labels, first = self._unit_features(self.exemplars), self.exemplars["label"], 0
        far = torch.full_like(features[0], 3 / features.shape[1] ** 0.5)
        for task_id, head in self.heads.items():
            own = [features[labels == label] for label in range(first, first + classes(head))]
            means = [functional.normalize(rows.mean(0), dim=0) if len(rows) else far for rows in own]
            self.means[task_id] = torch.stack(means)
            first += classes(head)


def herd(features: Tensor, count: int) -> list[int]:
    """The first `count` exemplars of a class, in order, as rows of its features (n, C) of length 1; all if
    there are fewer.

    Each makes the mean of those so far the nearest to the mean of the class, both of length 1 (algorithm 4).
    """
    mean, total = functional.normalize(features.mean(0), dim=0), torch.zeros_like(features[0])
    taken = torch.zeros_like(features[:, 0])  # infinite for rows that are chosen
    chosen: list[int] = []
    while len(chosen) < min(count, len(features)):
        distance = (functional.normalize(total + features, dim=1) - mean).square().sum(1) + taken
        chosen.append(int(distance.argmin()))
        total = total + features[chosen[-1]]
        taken[chosen[-1]] = torch.inf
    return chosen


def interleave(columns: Sequence[Tensor]) -> Tensor:
    """The rows of columns (B, ...) in turn; in one order of memory, in which dropout draws."""
    return torch.stack(list(columns), 1).flatten(0, 1).contiguous()


def classes(head: nn.Module) -> int:
    """The number of outputs of a head."""
    assert isinstance(head, nn.Linear)
    return head.out_features


def _logits(heads: nn.Module, features: Tensor) -> Tensor:
    """Those of all heads in order, in float32: (B, classes)."""
    return torch.cat([head(features) for head in heads.children()], 1).float()
