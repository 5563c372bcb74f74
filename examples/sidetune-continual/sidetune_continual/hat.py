"""Hard attention to the task (HAT)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

LARGEST_EMBEDDING = 6.0
"""Limit of an embedding, in the original code."""

LARGEST_EXPONENT = 50.0
"""Limit of ``s e`` in the compensation, in the original code."""


class HAT(Learner):
    """Two layers on a frozen base, in which each task chooses its units by gates and keeps the weights
    between them (Serra et al., Overcoming Catastrophic Forgetting with Hard Attention to the Task, ICML
    2018).

    The output of a layer is ``relu(W h + b)`` times the gates ``a = sigmoid(s e)`` with an embedding e for
    each task. In each epoch s increases from ``1 / scale`` to `scale` (hard attention training), and the
    gradient of e is multiplied by ``scale (cosh(s e) + 1) / (s (cosh(e) + 1))`` (embedding gradient
    compensation); e stays within ±6. The loss is ``task + sparsity * R``, where R is the mean of a over the
    units that no earlier task uses.

    Afterwards the gates are their limit for large s: 1 where e > 0, otherwise 0. The gradient of a weight
    between two units that earlier tasks use is zero, and the weight is restored after each step, so
    that the outputs of a task stay the same bit for bit with any optimiser and weight decay.

    The paper gates all layers of a network that is trained from scratch; here the base is frozen, and the
    gated layers, of `width` units each, follow its encoding, averaged over positions. The paper's fully
    connected layers have 2048 units. The task of an example chooses the gates, so that it is defined in the
    scenario ``task`` only.
    """

    @attrs.frozen
    class Config:
        """Options of `HAT`."""

        width: int = option(256, "units of a layer", at_least(1))
        scale: float = option(400.0, "s at the end of an epoch (s_max in the paper)", more_than(1))
        sparsity: float = option(0.75, "weight of the loss on newly used units (c in the paper)", at_least(0))

    used: Tensor

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        shape = self.base.shape
        self._channels = shape[-1] if len(shape) == 2 else shape[0]
        sizes = [self._channels, config.width, config.width]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.embeddings = nn.ParameterDict()
        self.register_buffer("used", torch.zeros(len(self.layers), config.width, dtype=torch.bool))
        self.heads = Heads((config.width,), norm=False)
        self._config = config
        self._before: list[Tensor] = []  # from after_backward to after_step

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
        compensation = (exponent.cosh() + 1) / (embedding.detach().cosh() + 1)
        embedding.grad *= self._config.scale / scale * compensation  # as if s were 1 in the sigmoid
        for parameter, protected in self._protected():
            assert parameter.grad is not None
            parameter.grad.masked_fill_(protected, 0.0)
            self._before.append(parameter.detach().clone())

    def after_step(self, task: Task, step: TrainingStep) -> None:
        self.embeddings[task.id].detach().clamp_(-LARGEST_EMBEDDING, LARGEST_EMBEDDING)
        for (parameter, protected), before in zip(self._protected(), self._before, strict=True):
            # undoes weight decay and momentum
            parameter.detach().copy_(torch.where(protected, before, parameter))
        self._before.clear()

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        self.used |= self.embeddings[task.id] > 0

    def record(self) -> dict[str, float]:
        return {"used": float(self.used.float().mean())}

    def _scale(self, task: Task, step: TrainingStep) -> float:
        """s of a step: linear from 1 / s_max to s_max in each epoch, or in the task if it is shorter."""
        largest, steps = self._config.scale, min(task.steps_per_epoch(step.batch_size), step.total)
        progress = step.number % steps / max(1, steps - 1)
        return 1 / largest + (largest - 1 / largest) * progress

    def _output(self, inputs: Mapping[str, Tensor], task_id: str, gates: Tensor) -> Tensor:
        hidden = self.base(inputs).encoding
        if len(self.base.shape) > 1:  # (B, C, H, W) or (B, L, C)
            hidden = hidden.mean((2, 3) if len(self.base.shape) == 3 else 1)
        for layer, gate in zip(self.layers, gates, strict=True):
            hidden = layer(hidden).relu() * gate
        return self.heads.predict(hidden, task_id, inputs)

    def _protected(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Each parameter of the layers, and which of its elements only link units that earlier tasks use."""
        below = [self.used.new_ones(self._channels), *self.used[:-1]]
        protected: list[tuple[nn.Parameter, Tensor]] = []
        for layer, units, inputs in zip(self.layers, self.used, below, strict=True):
            assert isinstance(layer, nn.Linear)
            own = (units[:, None] & inputs, units)
            protected += zip(layer.parameters(), own, strict=True)
        return protected
