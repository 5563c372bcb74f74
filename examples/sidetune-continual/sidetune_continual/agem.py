"""Averaged gradient episodic memory (A-GEM)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Batch,
    BufferDict,
    Components,
    Heads,
    Learner,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    mean_loss,
    option,
)

from ._examples import Columns, batch_of, first_distinct, inputs_of, select


class AGEM(Learner):
    """Fine-tuning whose steps do not, to first order, increase the loss on stored examples of earlier tasks
    (Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019).

    ``g`` is the gradient of a step and ``g_ref`` that of the mean loss on a random sample of the memory.
    Where ``g . g_ref < 0``, the step is taken with ``g - (g . g_ref / g_ref . g_ref) g_ref`` (eq. 11), which
    is orthogonal to ``g_ref``. Both cover all weights, all heads included. The memory has
    examples of each task drawn at its end, uniformly and not by class.

    The guarantee is that of plain SGD: Adam scales the projected gradient, and momentum and weight decay add
    to it. The sample passes through the network in training mode, so that batch norm averages over earlier
    tasks too. Examples are stored as the network saw them, augmentation included. The joint embedding and the
    single pass over the data of the paper are no part of this.
    """

    @attrs.frozen
    class Config:
        """Options of `AGEM`."""

        memory: int = option(64, "stored examples of each task", at_least(1))
        sample: int = option(
            64, "stored examples, of all earlier tasks together, for the gradient of a step", at_least(1)
        )
        norm: bool = option(
            True, "standardise the encoding before the head (8 groups of channels, no parameters)"
        )

    scenarios = frozenset({"task", "domain", "class"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm, components.scenario)
        self.memory = nn.ModuleDict()
        self._config, self._shapes = config, components.inputs
        self._tasks: dict[str, Task] = {}

    def start(self, task: Task) -> Trainable:
        self._tasks[task.id] = task
        self.memory[task.id] = BufferDict()
        self.heads.add_task(task)
        return [self.base, self.heads]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id, inputs)

    def after_backward(self, task: Task, step: TrainingStep) -> None:
        if not (sample := self._draw()):
            return
        with step.autocast():
            loss = self._loss(sample)
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        project(weights, torch.autograd.grad(loss, weights, materialize_grads=True))

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        self._stored(task.id).replace(first_distinct(batches, self._config.memory, self._shapes))

    def _draw(self) -> dict[str, Columns]:
        """A random sample of the memory, no example twice, by task."""
        counts = {
            task_id: len(self._stored(task_id)["id"]) for task_id in self.memory if self._stored(task_id)
        }
        drawn = torch.randperm(sum(counts.values()))[: self._config.sample]
        sample: dict[str, Columns] = {}
        first = 0
        for task_id, count in counts.items():
            rows = drawn[(drawn >= first) & (drawn < first + count)] - first
            first += count
            if len(rows):
                sample[task_id] = select(self._stored(task_id), rows)
        return sample

    def _loss(self, sample: Mapping[str, Columns]) -> Tensor:
        """The mean loss of a sample, each example's by its own task, from one pass through the base."""
        counts = [len(columns["id"]) for columns in sample.values()]
        inputs = [inputs_of(columns) for columns in sample.values()]
        encoding = self.base({name: torch.cat([own[name] for own in inputs]) for name in inputs[0]}).encoding
        sums = [
            len(rows) * mean_loss(self._tasks[task_id], self.heads.predict(rows, task_id), batch_of(columns))
            for rows, (task_id, columns) in zip(torch.split(encoding, counts), sample.items(), strict=True)
        ]
        return torch.stack(sums).sum() / sum(counts)

    def _stored(self, task_id: str) -> BufferDict:
        stored = self.memory[task_id]
        assert isinstance(stored, BufferDict)
        return stored


def project(weights: Sequence[nn.Parameter], reference: Sequence[Tensor]) -> None:
    """Replace the gradient of `weights` by its projection if it conflicts with `reference` (eq. 11)."""
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    dot = _dot(gradients, reference)
    if dot < 0:
        factor = dot / _dot(reference, reference)
        for weight, own, other in zip(weights, gradients, reference, strict=True):
            weight.grad = own - factor * other


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(one * other).sum() for one, other in zip(first, second, strict=True)]).sum()
