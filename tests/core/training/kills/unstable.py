"""Learners whose outputs are no function of their tensors and an example, each for another reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from stored import Plain
from torch import Tensor

from sidetune_core.api import Batch, Components, Task


class Drifts(Plain):
    """A buffer counts the predictions, and is added to outputs."""

    def __init__(self, config: Plain.Config, components: Components) -> None:
        super().__init__(config, components)
        self.register_buffer("count", torch.zeros(()))

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None = None) -> Tensor:
        self.count += 0.01
        output: Tensor = super().predict(inputs, task_id)
        return output + self.count * torch.arange(2)


class Samples(Plain):
    """Adds random numbers to outputs."""

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None = None) -> Tensor:
        output: Tensor = super().predict(inputs, task_id)
        return output + torch.rand_like(output)


class Compares(Plain):
    """Subtracts the mean of a batch."""

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None = None) -> Tensor:
        output: Tensor = super().predict(inputs, task_id)
        return output - output.mean(0)


class Counts(Plain):
    """An attribute counts the predictions, and is added to outputs."""

    predictions = 0

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None = None) -> Tensor:
        self.predictions += 1
        output: Tensor = super().predict(inputs, task_id)
        return output + 0.01 * self.predictions * torch.arange(2)


class Hides(Plain):
    """Adds the number of tasks that have ended to the outputs for all but the first eight examples of a
    batch, of which the certificate stores probes."""

    ended = 0

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        self.ended += 1

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None = None) -> Tensor:
        output: Tensor = super().predict(inputs, task_id).clone()
        output[8:] += 0.01 * max(self.ended - 3, 0) * torch.arange(2)
        return output
