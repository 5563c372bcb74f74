"""The base class of the learners with a replay buffer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from sidetune_core.api import (
    Batch,
    Components,
    Heads,
    Inputs,
    InputShapes,
    Learner,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    mean_loss,
    option,
)

from .reservoir import Columns, Reservoir, Sample

INPUT = "input."


@attrs.frozen
class ReplayConfig:
    """Options of a learner with a replay buffer."""

    buffer: int = option(200, "maximum number of stored examples, over all tasks", at_least(1))
    norm: bool = option(
        True, "standardise the encoding before the head (8 groups of channels, no parameters)"
    )


@attrs.frozen(eq=False)
class Replayed:
    """Stored examples of one task, and the network's current output for them."""

    task: Task
    columns: Columns
    output: Tensor


class Replay(Learner):
    """Fine-tunes one base, and the heads of all tasks, on each batch and on samples of past examples, each as
    large as the batch.

    A replayed example has the outputs and the loss of its own task, which is a softmax over all classes so
    far in the scenario ``class``, and the input that it had when it was stored, augmentation included. Batch
    and samples pass through the base together, so that batch norm in training standardises by the mixture of
    tasks that its running statistics average.

    Samples are drawn once for each step, and its examples are offered to the reservoir after it.
    """

    scenarios = frozenset({"task", "domain", "class"})
    samples: ClassVar[int] = 1
    """Number of independent samples per step."""

    def __init__(self, config: ReplayConfig, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm, components.scenario)
        self.memory = Reservoir(config.buffer)
        self._shapes = components.inputs
        self._tasks: dict[str, Task] = {}
        self._drawn: list[Tensor] = []
        """For each sample, a slot of the reservoir for each example of the step."""
        self._new: list[Columns] = []
        """The examples of the step so far."""

    @abstractmethod
    def replay(self, samples: Sequence[Sequence[Replayed]]) -> dict[str, Tensor]:
        """Losses on the samples of a step, each by task."""

    def columns(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """Tensors (B, ...) to store for the examples of a batch."""
        inputs = {INPUT + name: value for name, value in batch.inputs.items()}
        return {"id": batch.ids, "target": batch.targets, **inputs}

    def start(self, task: Task) -> Trainable:
        self._tasks[task.id] = task
        self.memory.add_task(task.id)
        self.heads.add_task(task)
        return [self.base, self.heads, self.memory]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id, inputs)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        if step.micro_batch == 0:
            count = self.samples if len(self.memory) else 0
            self._drawn = [self.memory.draw(step.batch_size) for _ in range(count)]
        batch = Batch(batch.ids, Inputs(full_length(batch.inputs, self._shapes)), batch.targets)
        samples = [self.memory.read(slots[step.rows]) for slots in self._drawn]
        own, *others = self._encode(batch.inputs, samples)
        output = self.heads.predict(own, task.id)
        columns = self.columns(batch, output.float())
        self._new.append({name: step.gather(values) for name, values in columns.items()})
        losses = {"loss": mean_loss(task, output, batch)}
        if samples:
            losses |= self.replay([self._predict(*sample) for sample in zip(others, samples, strict=True)])
        return losses

    def after_step(self, task: Task, step: TrainingStep) -> None:
        self.memory.add(
            task.id, {name: torch.cat([columns[name] for columns in self._new]) for name in self._new[0]}
        )
        self._new.clear()

    def _encode(self, inputs: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[Tensor]:
        """Encodings (B, *shape) of the batch and of each sample, from one pass through the base."""
        rows: dict[str, Tensor] = {}
        for name, values in inputs.items():
            columns = [values, *(torch.empty_like(values) for _ in samples)]
            for column, sample in zip(columns[1:], samples, strict=True):
                for positions, stored in sample.values():
                    column[positions] = stored[INPUT + name]
            # each example next to those replayed with it; in one order of memory, in which dropout draws
            rows[name] = torch.stack(columns, 1).flatten(0, 1).contiguous()
        encoding: Tensor = self.base(rows).encoding
        return list(encoding.reshape(-1, 1 + len(samples), *encoding.shape[1:]).unbind(1))

    def _predict(self, encoding: Tensor, sample: Sample) -> list[Replayed]:
        """The outputs of each example's own head."""
        return [
            Replayed(self._tasks[task_id], stored, self.heads.predict(encoding[positions], task_id))
            for task_id, (positions, stored) in sample.items()
        ]


def loss(sample: Sequence[Replayed]) -> Tensor:
    """The mean loss over a sample, each example's by its own task."""
    sums = [
        len(replayed.output) * mean_loss(replayed.task, replayed.output, _batch(replayed.columns))
        for replayed in sample
    ]
    return torch.stack(sums).sum() / sum(len(replayed.output) for replayed in sample)


def full_length(inputs: Inputs, shapes: InputShapes) -> dict[str, Tensor]:
    """The tensors of a batch, with sequences padded by zeros to their longest, so that all can be stacked."""
    if inputs.lengths is None:
        return dict(inputs)
    padded = {name: values.new_zeros(len(values), *shapes[name]) for name, values in inputs.items()}
    for name, values in inputs.items():
        padded[name][:, : values.shape[1]] = values
    return padded


def _batch(columns: Columns) -> Batch:
    inputs = {name.removeprefix(INPUT): value for name, value in columns.items() if name.startswith(INPUT)}
    return Batch(columns["id"].cpu(), Inputs(inputs), columns["target"])
