"""A MAML-like learner: weights that one step adapts to a task."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call

from sidetune_core.api import (
    Batch,
    Components,
    Heads,
    Learner,
    Task,
    TrainingStep,
    at_least,
    mean_loss,
    more_than,
    option,
)


class MAML(Learner):
    """A layer on a frozen base's encoding, shared by all tasks, learns to be adapted by one step of gradient
    descent (Finn et al., ICML 2017, algorithm 1); the adapted layers are kept for each task.

    A batch is a number of episodes. The first half of each is the support set of the inner step, and the loss
    is that of the second half after that step, differentiated through it unless `first_order`. For the result
    not to depend on the number of processes, each process's shard must consist of whole episodes.
    """

    @attrs.frozen
    class Config:
        """Options of `MAML`."""

        inner_lr: float = option(0.1, "learning rate of the inner step", more_than(0))
        episode: int = option(4, "examples of an episode", at_least(2))
        first_order: bool = option(False, "take the inner gradient for a constant")
        examples: int = option(128, "training examples that adapt the layer after a task", at_least(1))

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        shape = self.base.shape
        channels = shape[-1] if len(shape) == 2 else shape[0]
        self.layer = nn.Linear(channels, channels)
        self.adapted = nn.ModuleDict()
        self.heads = Heads((channels,))
        self._config = config

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        self.adapted[task.id] = copy.deepcopy(self.layer)
        return [self.layer, self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self._output(inputs, task_id, dict(self.adapted[task_id].named_parameters()))

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        weights, loss = dict(self.layer.named_parameters()), torch.zeros(())
        for first in range(0, len(batch.ids), self._config.episode):
            episode = batch.rows(slice(first, first + self._config.episode))
            half = len(episode.ids) // 2
            adapted = self._step(episode.rows(slice(half)), task, weights) if half else weights
            fraction = len(episode.ids) / len(batch.ids)
            loss = loss + fraction * self._loss(episode.rows(slice(half, None)), task, adapted)
        return {"query": loss}

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        weights = {name: weight.detach().requires_grad_() for name, weight in self.layer.named_parameters()}
        left, loss = self._config.examples, torch.zeros(())
        while left > 0:
            batch = next(batches).rows(slice(left))
            loss = loss + self._loss(batch, task, weights) * (len(batch.ids) / self._config.examples)
            left -= len(batch.ids)
        gradients = torch.autograd.grad(loss, weights.values())
        self.adapted[task.id].load_state_dict(self._descend(weights, gradients))

    def _step(self, support: Batch, task: Task, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights after one step on the support set, as a function of `weights`."""
        loss = self._loss(support, task, weights)
        gradients = torch.autograd.grad(loss, weights.values(), create_graph=not self._config.first_order)
        return self._descend(weights, gradients)

    def _descend(self, weights: Mapping[str, Tensor], gradients: Sequence[Tensor]) -> dict[str, Tensor]:
        pairs = zip(weights.items(), gradients, strict=True)
        return {name: weight - self._config.inner_lr * gradient for (name, weight), gradient in pairs}

    def _loss(self, batch: Batch, task: Task, weights: Mapping[str, Tensor]) -> Tensor:
        return mean_loss(task, self._output(batch.inputs, task.id, weights), batch)

    def _output(self, inputs: Mapping[str, Tensor], task_id: str, weights: Mapping[str, Tensor]) -> Tensor:
        encoding = self.base(inputs).encoding.float()  # half precision if it was cached in losses
        if len(self.base.shape) > 1:  # (B, C, H, W) or (B, L, C)
            encoding = encoding.mean((2, 3) if len(self.base.shape) == 3 else 1)
        hidden = functional_call(self.layer, dict(weights), (encoding,)).relu()
        return self.heads.predict(hidden, task_id)
