"""What the learners with a buffer share."""

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
    """Options of a learner with a buffer."""

    buffer: int = option(200, "most examples that are kept, over all tasks", at_least(1))
    norm: bool = option(
        True, "standardise the encoding in front of the head (8 groups of channels, no parameters)"
    )


@attrs.frozen(eq=False)
class Replayed:
    """Some examples of one task out of the buffer, and what the network makes of them now."""

    task_id: str
    columns: Columns
    output: Tensor


class Replay(Learner):
    """Fine-tuning of one base on each batch and on samples, each as large as the batch, of a buffer that reservoir sampling fills.

    A replayed example has the head and the loss of its own task, and the input that it had when it went by, augmentation included.
    Batch and samples go through the base together, so that a batch norm in training standardises by the mixture of tasks that its
    running statistics are the average of.
    """

    samples: ClassVar[int] = 1
    """How many samples are drawn for a step, independently."""

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
        """What is added to the loss for the samples of a step, each of which is never empty."""

    def columns(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """What is kept of each example of a batch: (B, ...)."""
        inputs = {INPUT + name: value for name, value in batch.inputs.items()}
        return {"id": batch.ids, "target": batch.targets, **inputs}

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        self._losses[task.id] = task.loss
        self.memory.start(task.id)
        return [self.base, self.memory, self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        if not torch.is_grad_enabled():
            return self.heads.predict(self.base(inputs).encoding, task_id)
        count = len(next(iter(inputs.values())))
        samples = [self.memory.draw(count) for _ in range(self.samples)]
        groups = [columns for sample in samples for columns in sample.values()]
        together = {
            name: torch.cat([value, *(columns[INPUT + name] for columns in groups)])
            for name, value in inputs.items()
        }
        encoding = self.base(together).encoding
        own, *others = torch.split(encoding, [count, *(len(columns["target"]) for columns in groups)])
        left = iter(others)
        self._replayed = [
            [Replayed(old, columns, self.heads.predict(next(left), old)) for old, columns in sample.items()]
            for sample in samples
        ]
        output = self.heads.predict(own, task_id)
        self._task_id, self._output = task_id, output.detach().float()
        return output

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the samples that `forward` drew; then `batch` goes by the buffer."""
        assert self._output is not None, "forward runs before penalty"
        samples, self._replayed = (
            self._replayed,
            [],
        )  # they hold the batch's graph, which is not to outlive the step
        terms = self.terms(samples) if all(samples) else {}
        self.memory.add(self._task_id, self.columns(batch, self._output))
        return terms

    def loss(self, sample: Sequence[Replayed]) -> Tensor:
        """The mean over a sample of each example's loss in its own task."""
        return torch.cat(
            [self._losses[some.task_id](some.output.float(), _batch(some.columns)) for some in sample]
        ).mean()


def _batch(columns: Columns) -> Batch:
    inputs = {name.removeprefix(INPUT): value for name, value in columns.items() if name.startswith(INPUT)}
    return Batch(columns["id"].cpu(), Inputs(inputs), columns["target"])
