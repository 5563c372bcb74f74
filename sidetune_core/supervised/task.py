"""A supervised task: a source for each split, and an objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from sidetune_core.errors import DataError
from sidetune_core.interfaces.heads import ClassHead
from sidetune_core.interfaces.inputs import Inputs, Shape
from sidetune_core.interfaces.tasks import Batch, DataPart, Order, Predict, Task, shuffled
from sidetune_core.seeding import derive_seed
from sidetune_core.supervised.data_parts import source_parts
from sidetune_core.supervised.objectives import Objective
from sidetune_core.supervised.sampling import Sampling, balanced
from sidetune_core.supervised.sources import LoadedExamples, Request, Source

EVALUATION_BATCH = 250
"""Batch size of `SupervisedTask.evaluate`."""


class SupervisedTask(Task):
    """Learn an objective from labelled examples.

    Args:
        id: see `Task`.
        title: see `Task`.
        sources: by split, with ``train`` and ``test``.
        objective: the outputs, the loss and the metrics.
        sampling: of the training examples: each once in an epoch (uniform), or each class equally often
            (balanced, see `sampling.balanced`). An epoch has the same number of steps in both.

    Raises:
        DataError: a split is missing or empty, its inputs have other shapes than those of ``train``, its
            targets are not those of the objective, or sampling is balanced and they are not classes.
    """

    def __init__(
        self,
        id: str,
        title: str,
        sources: Mapping[str, Source],
        objective: Objective,
        *,
        sampling: Sampling = "uniform",
    ) -> None:
        _check(f"task '{id}' ({title})", sources, objective, sampling)
        self.id, self.title = id, title
        self.inputs = sources["train"].shapes
        self.splits = tuple(split for split in sources if split != "train")
        self.outputs, self.metric = objective.outputs, objective.metric
        self.higher_is_better = objective.higher_is_better
        self.sources, self.objective, self.sampling = sources, objective, sampling
        self._documents: Mapping[str, str] = {}

    def size(self, split: str) -> int:
        """Number of examples in a split."""
        return len(self.sources[split])

    def training_size(self) -> int:
        return self.size("train")

    def make_head(self, shape: Shape) -> nn.Module:
        size = self.outputs.size
        assert size is not None  # an objective declares it
        return ClassHead(shape, size)

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, round(self.training_size() / batch_size))

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        source = self.sources["train"]
        for examples in source.read(self._requests(order)):
            yield self._as_batch(examples, "train")

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return self.objective.loss(output, batch.targets)

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """The metrics of the objective."""
        return self._measure(predict, self.batches(split))

    def evaluate_subset(self, predict: Predict, split: str, examples: int) -> dict[str, float] | None:
        """The metrics on examples that are drawn from the split once and for all (see `HasSubsets`)."""
        if type(self).evaluate is not SupervisedTask.evaluate:
            return None  # it has other metrics
        return self._measure(predict, self.batches(split, examples))

    def _measure(self, predict: Predict, batches: Iterator[Batch]) -> dict[str, float]:
        measurement = self.objective.measure()
        for batch in batches:
            measurement.add(predict(batch.inputs).cpu(), batch.targets)
        self._documents = measurement.documents()
        return measurement.metrics()

    def batches(self, split: str, examples: int | None = None) -> Iterator[Batch]:
        """The examples of a split in order, once and as they are.

        Args:
            split: of the task.
            examples: number of them, drawn once and for all; None for all.
        """
        source = self.sources[split]
        rows = torch.arange(len(source))
        if examples is not None and examples < len(rows):
            generator = torch.Generator().manual_seed(derive_seed(0, "subset", self.id, split))
            rows = torch.randperm(len(rows), generator=generator)[:examples].sort().values
        firsts = range(0, len(rows), EVALUATION_BATCH)
        for loaded in source.read(Request(rows[first : first + EVALUATION_BATCH]) for first in firsts):
            yield self._as_batch(loaded, split)

    def data_parts(self) -> Mapping[str, DataPart]:
        """A part for each split and class; for each split if the targets are no classes."""
        return {
            f"{split}/{name}" if name else split: part
            for split, source in self.sources.items()
            for name, part in source_parts(source, self.outputs).items()
        }

    def documents(self) -> Mapping[str, str]:
        """Those of the latest `evaluate`, such as a confusion matrix."""
        return self._documents

    def _requests(self, order: Order) -> Iterator[Request]:
        """The training batches without end."""
        source = self.sources["train"]
        if self.sampling == "balanced":
            drawn = balanced(source.targets(), order, self.id)
        else:
            drawn = shuffled(len(source), order, self.id)
        for step, rows in enumerate(drawn, order.first_step):
            yield Request(
                rows, derive_seed(order.seed, "augment", self.id, step) if source.augments else None
            )

    def _as_batch(self, examples: LoadedExamples, split: str) -> Batch:
        source = self.sources[split]
        if source.lazy_targets:
            self.objective.check_targets(
                examples.targets, f"task '{self.id}' ({self.title}), split '{split}'"
            )
        ids = source.ids(examples.request.rows)
        cached = ids if examples.request.seed is None else None  # augmented inputs are new each time
        return Batch(ids, Inputs(examples.inputs, cached, examples.lengths), examples.targets)


def _check(what: str, sources: Mapping[str, Source], objective: Objective, sampling: Sampling) -> None:
    """Check the splits of a task, called `what`; see `SupervisedTask`."""
    if missing := [split for split in ("train", "test") if split not in sources]:
        raise DataError(f"{what}: no split '{missing[0]}'; a task needs training and test examples")
    if empty := [split for split, source in sources.items() if not len(source)]:
        raise DataError(f"{what}: no examples in split {' and '.join(map(repr, empty))}")
    shapes = {
        split: {name: tuple(size) for name, size in one.shapes.items()} for split, one in sources.items()
    }
    if differing := [split for split in shapes if shapes[split] != shapes["train"]]:
        raise DataError(
            f"{what}: inputs of split '{differing[0]}' have shapes {shapes[differing[0]]}, and those of "
            f"'train' {shapes['train']}"
        )
    if sampling == "balanced" and objective.outputs.kind != "logits":
        raise DataError(
            f"{what}: balanced sampling needs classes, one for each example; use uniform sampling"
        )
    wrong = []
    for split, source in sources.items():
        if not source.lazy_targets or (split == "train" and sampling == "balanced"):
            targets = source.targets()
            if len(targets) != len(source):
                wrong.append(f"{what}, split '{split}': {len(source)} examples with {len(targets)} targets")
                continue
            try:
                objective.check_targets(targets, f"{what}, split '{split}'")
            except DataError as error:
                wrong.append(str(error))
    if wrong:
        raise DataError("; ".join(wrong))
