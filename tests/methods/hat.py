"""HAT: hard attention to the task, on the units of a trunk."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Batch,
    Components,
    Heads,
    Learner,
    ParamGroup,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    mean_loss,
    more_than,
    option,
)

LARGEST_EMBEDDING, LARGEST_EXPONENT = 6.0, 50.0
"""Limits of the embeddings and of exponents (appendix B of the paper)."""


class HAT(Learner):
    """Every task gates the units of two layers on a frozen base's encoding, and keeps the weights between its
    units (Serra et al., ICML 2018).

    A gate is ``sigmoid(s e)`` with a learned embedding e; s is annealed in each epoch. Afterwards a gate is
    the limit of large s: 1 where e > 0, else 0. Weights between two units that earlier tasks use do not
    change, bit for bit, so earlier outputs do not either.
    """

    @attrs.frozen
    class Config:
        """Options of `HAT`."""

        width: int = option(64, "units of a layer", at_least(1))
        largest_scale: float = option(400.0, "s at the end of an epoch", more_than(1))
        sparsity: float = option(0.75, "weight of the loss on newly used units", at_least(0))

    used: Tensor

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        shape = self.base.shape
        sizes = [shape[-1] if len(shape) == 2 else shape[0], config.width, config.width]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.finished_layers = copy.deepcopy(self.layers)
        self.embeddings = nn.ParameterDict()
        self.register_buffer("used", torch.zeros(len(self.layers), config.width, dtype=torch.bool))
        self.heads = Heads((config.width,), norm=False)
        self._config = config

    def start(self, task: Task) -> Trainable:
        self.embeddings[task.id] = nn.Parameter(torch.randn(self.used.shape))
        embedding = ParamGroup([self.embeddings[task.id]], weight_decay=0.0)
        return [self.layers, self.heads.add_task(task), embedding]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self._output(inputs, task_id, (self.embeddings[task_id] > 0).float())

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        gates = torch.sigmoid(self._scale(task, step) * self.embeddings[task.id])
        loss = mean_loss(task, self._output(batch.inputs, task.id, gates), batch)
        free = (~self.used).float()
        sparsity = (gates * free).sum() / free.sum().clamp(min=1)
        return {"loss": loss, "sparsity": self._config.sparsity * sparsity}

    def after_backward(self, task: Task, step: TrainingStep) -> None:
        scale, embedding = self._scale(task, step), self.embeddings[task.id]
        assert embedding.grad is not None
        exponent = (scale * embedding.detach()).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
        embedding.grad *= self._config.largest_scale / scale  # eq. 6: the gradient as if s were 1
        embedding.grad *= (exponent.cosh() + 1) / (embedding.detach().cosh() + 1)
        for parameter, protected in self._protected(self.layers):
            assert parameter.grad is not None
            parameter.grad[protected] = 0

    @torch.no_grad()
    def after_step(self, task: Task, step: TrainingStep) -> None:
        self.embeddings[task.id].clamp_(-LARGEST_EMBEDDING, LARGEST_EMBEDDING)
        finished = self._protected(self.finished_layers)
        for (parameter, protected), (before, _) in zip(self._protected(self.layers), finished, strict=True):
            parameter.copy_(torch.where(protected, before, parameter))  # weight decay and momentum

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        self.used |= self.embeddings[task.id] > 0
        self.finished_layers.load_state_dict(self.layers.state_dict())

    def _scale(self, task: Task, step: TrainingStep) -> float:
        """s of a step: linear from 1 / s_max to s_max in each epoch, or in the task if it is shorter."""
        largest, steps = self._config.largest_scale, min(task.steps_per_epoch(step.batch_size), step.total)
        progress = step.number % steps / max(1, steps - 1)
        return 1 / largest + (largest - 1 / largest) * progress

    def _output(self, inputs: Mapping[str, Tensor], task_id: str, gates: Tensor) -> Tensor:
        hidden = self.base(inputs).encoding
        if len(self.base.shape) > 1:  # (B, C, H, W) or (B, L, C)
            hidden = hidden.mean((2, 3) if len(self.base.shape) == 3 else 1)
        for layer, gate in zip(self.layers, gates, strict=True):
            hidden = layer(hidden).relu() * gate
        return self.heads.predict(hidden, task_id)

    def _protected(self, layers: nn.ModuleList) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Each parameter of `layers`, and which of its elements only link units that earlier tasks use."""
        encoding = self.used.new_ones(layers[0].in_features)
        below = [encoding, *self.used[:-1]]
        return [
            pair
            for layer, units, inputs in zip(layers, self.used, below, strict=True)
            for pair in ((layer.weight, units[:, None] & inputs), (layer.bias, units))
        ]
