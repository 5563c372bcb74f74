"""The base class of the learners with a replay buffer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Batch, Components, Heads, Inputs, Learner, Task, at_least, option

from .reservoir import Columns, Reservoir

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
    """Examples of one task from the buffer, and the network's current output for them."""

    task_id: str
    columns: Columns
    output: Tensor


class Replay(Learner):
    """Fine-tunes one base on each batch and on samples of past examples, each as large as the batch.

    A replayed example has the head and the loss of its own task, and the input that it had when it was
    stored, augmentation included. Batch and samples pass through the base together, so that batch norm in
    training standardises by the mixture of tasks that its running statistics average.
    """

    samples: ClassVar[int] = 1
    """Number of independent samples per step."""

    def __init__(self, config: ReplayConfig, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm)
        self.memory = Reservoir(config.buffer)
        self._losses: dict[str, Callable[[Tensor, Batch], Tensor]] = {}
        self._output: Tensor | None = None
        self._task_id = ""
        self._replayed: list[list[Replayed]] = []

    @abstractmethod
    def terms(self, samples: Sequence[Sequence[Replayed]]) -> dict[str, Tensor]:
        """Terms to add to the loss for the samples of a step, none of which is empty."""

    def columns(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """Tensors (B, ...) to store for the examples of a batch."""
        inputs = {INPUT + name: value for name, value in batch.inputs.items()}
        return {"id": batch.ids, "target": batch.targets, **inputs}

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        self._losses[task.id] = task.loss
        self.memory.add_task(task.id)
        return [self.base, self.memory, self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        if not torch.is_grad_enabled():
            return self.heads.predict(self.base(inputs).encoding, task_id)
        count = len(next(iter(inputs.values())))
        samples = [self.memory.draw(count) for _ in range(self.samples)]
        groups = [columns for sample in samples for columns in sample.values()]
        combined = {
            name: torch.cat([value, *(columns[INPUT + name] for columns in groups)])
            for name, value in inputs.items()
        }
        encoding = self.base(combined).encoding
        own, *others = torch.split(encoding, [count, *(len(columns["target"]) for columns in groups)])
        remaining = iter(others)
        self._replayed = [
            [
                Replayed(old_id, columns, self.heads.predict(next(remaining), old_id))
                for old_id, columns in sample.items()
            ]
            for sample in samples
        ]
        output = self.heads.predict(own, task_id)
        self._task_id, self._output = task_id, output.detach().float()
        return output

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the samples that `forward` drew; feeds `batch` to the reservoir."""
        assert self._output is not None, "forward runs before penalty"
        samples, self._replayed = self._replayed, []  # frees the batch's graph after the step
        terms = self.terms(samples) if all(samples) else {}
        self.memory.add(self._task_id, self.columns(batch, self._output))
        return terms

    def loss(self, sample: Sequence[Replayed]) -> Tensor:
        """The mean loss over a sample, each example's by its own task."""
        losses = [
            self._losses[replayed.task_id](replayed.output.float(), _batch(replayed.columns))
            for replayed in sample
        ]
        return torch.cat(losses).mean()


def _batch(columns: Columns) -> Batch:
    inputs = {name.removeprefix(INPUT): value for name, value in columns.items() if name.startswith(INPUT)}
    return Batch(columns["id"].cpu(), Inputs(inputs), columns["target"])
