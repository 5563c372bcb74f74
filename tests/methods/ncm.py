"""Nearest class mean, without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Batch, BufferDict, Components, FitError, Learner, Task


class NearestClassMean(Learner):
    """The nearest mean of a frozen base's encodings over the training examples of a class (Mensink et al.,
    TPAMI 2013, with the Euclidean distance).

    Logits are negative squared distances. Without a task id, those to all classes so far.

    Raises:
        FitError: the number of classes of a task is not known.
    """

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.means = BufferDict()

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        if task.outputs.kind != "logits" or task.outputs.size is None:
            raise FitError(f"learner 'ncm' needs the number of classes; task '{task.id}' declares none")
        shape = self.base.shape
        self.means[task.id] = torch.zeros(task.outputs.size, shape[-1] if len(shape) == 2 else shape[0])
        return []

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return -torch.cdist(self._encode(inputs), self.means[task_id]).square()

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        known = [task_id] if task_id is not None else list(self.means)
        return torch.cat([self(inputs, one) for one in known], 1)

    @torch.no_grad()
    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        sums = torch.zeros_like(self.means[task.id], dtype=torch.float64)
        counts = sums.new_zeros(len(sums))
        for batch in one_pass(task, batches):
            encodings = self._encode(batch.inputs).double()
            sums.index_add_(0, batch.targets, encodings)
            counts += torch.bincount(batch.targets, minlength=len(sums))
        self.means[task.id] = (sums / counts.clamp(min=1)[:, None]).float()

    def _encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Encodings (B, C), averaged over positions."""
        encoding = self.base(inputs).encoding.float()
        if len(self.base.shape) == 1:
            return encoding
        return encoding.mean((2, 3) if len(self.base.shape) == 3 else 1)


def one_pass(task: Task, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Each training example once. Batches are filled up from the next pass; ids tell what came before."""
    first, seen = next(batches), set[int]()
    for batch in chain([first], islice(batches, task.steps_per_epoch(len(first.ids)))):
        places = {example: row for row, example in enumerate(batch.ids.tolist())}
        new = torch.tensor([row for example, row in places.items() if example not in seen])
        seen |= places.keys()
        if not len(new):
            return
        yield batch.rows(new)
