"""Memory aware synapses: fine-tuning that protects the weights on which earlier outputs depend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sidetune_core.api import (
    Batch,
    Components,
    Heads,
    Learner,
    Task,
    TrainingStep,
    at_least,
    option,
)


class MAS(Learner):
    """Every task trains the same base and a head of its own, with a penalty on changing important weights.

    The loss is ``task + coef * sum_i importance_i (w_i - anchor_i)**2`` over the weights w of the base
    (Aljundi et al., ECCV 2018). The anchor is the weights after the latest task. The importance is a sum
    over earlier tasks of the mean over inputs x of ``|d ||F(x)||**2 / d w_i|``, with F the outputs of the
    task's head. Running statistics of BatchNorm do not change.
    """

    @attrs.frozen
    class Config:
        """Options of `MAS`."""

        coef: float = option(
            1.0, "weight of the penalty on distance to the weights after the latest task", at_least(0)
        )
        examples: int = option(128, "training examples per task for the importance estimate", at_least(1))

    anchor: Tensor
    importance: Tensor

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)
        self.register_buffer("anchor", self._weights().detach())
        self.register_buffer("importance", torch.zeros_like(self.anchor))
        self._config = config

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        return [*self.base.parameters(), self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        losses = dict(super().losses(batch, task, step))
        if len(self.heads) > 1:
            change = self._weights() - self.anchor
            losses["pull"] = self._config.coef * (self.importance * change.square()).sum()
        return losses

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        def squared_norm(weights: dict[str, Tensor], example: dict[str, Tensor]) -> Tensor:
            inputs = {name: value.unsqueeze(0) for name, value in example.items()}
            encoding = functional_call(self.base, weights, (inputs,)).encoding
            return self.heads.predict(encoding, task.id).square().sum()

        weights = dict(self.base.named_parameters())
        gradients = vmap(grad(squared_norm), in_dims=(None, 0))
        left = self._config.examples
        while left > 0:
            batch = next(batches).rows(slice(left))
            found = gradients(weights, dict(batch.inputs))  # each (B, *weight.shape)
            total = torch.cat([found[name].abs().sum(0).flatten() for name in weights])
            self.importance += total / self._config.examples
            left -= len(batch.ids)
        self.anchor.copy_(self._weights())

    def _weights(self) -> Tensor:
        """All weights of the base, flat: (P,). `flatten`, since convolutions may be channels-last."""
        return torch.cat([weight.flatten() for weight in self.base.parameters()])
