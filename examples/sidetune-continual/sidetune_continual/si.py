"""Synaptic intelligence (SI)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Batch,
    Components,
    Heads,
    Learner,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    more_than,
    option,
)


class SI(Learner):
    """Fine-tuning with a quadratic penalty on the weights that reduced the losses of earlier tasks (Zenke et
    al., Continual Learning Through Synaptic Intelligence, ICML 2017).

    With ``g`` the gradient of a task's own loss and ``d`` the change of the weights in a step, the path
    integral ``w = -sum g d`` over the steps of a task (eq. 3) is each weight's share in the fall of the loss.
    At its end ``Omega += w / (D**2 + xi)`` with ``D`` the change over the task (eq. 5). The loss of later
    tasks is ``task + coef * sum_i Omega_i (theta_i - a_i)**2`` (eq. 4), with the weights ``a`` after the
    latest task.

    The penalty covers the weights of the base, not heads, also where tasks share them, nor the running
    statistics of batch norm. ``d`` is what the optimiser did, momentum and weight decay included. A negative
    path integral, of noise, counts as zero, so that the penalty is convex.
    """

    @attrs.frozen
    class Config:
        """Options of `SI`."""

        coef: float = option(0.1, "weight of the penalty (c in the paper)", at_least(0))
        damping: float = option(
            1e-3, "added to the squared change of a weight, in its units (xi in the paper)", more_than(0)
        )
        norm: bool = option(
            True, "standardise the encoding before the head (8 groups of channels, no parameters)"
        )

    scenarios = frozenset({"task", "domain", "class"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm, components.scenario)
        self.synapses = Synapses(self._weights())
        self._config = config
        self._gradient, self._before = torch.empty(0), torch.empty(0)  # from after_backward to after_step

    def start(self, task: Task) -> Trainable:
        return [self.base, self.heads.add_task(task), self.synapses]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id, inputs)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        losses = {**super().losses(batch, task, step)}
        if len(self.heads) > 1:
            losses["penalty"] = self._config.coef * self.synapses.distance(flat(self._weights()))
        return losses

    def after_backward(self, task: Task, step: TrainingStep) -> None:
        weights = self._weights()
        self._before = flat(weights).detach()
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        penalty = 2 * self._config.coef * self.synapses.importance * (self._before - self.synapses.anchor)
        self._gradient = flat(gradients) - penalty  # of the task alone

    def after_step(self, task: Task, step: TrainingStep) -> None:
        self.synapses.path -= self._gradient * (flat(self._weights()).detach() - self._before)

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        self.synapses.consolidate(flat(self._weights()).detach(), self._config.damping)

    def _weights(self) -> list[nn.Parameter]:
        return list(self.base.parameters())


class Synapses(nn.Module):
    """What is known of each weight, as vectors (P,)."""

    path: Tensor
    """The path integral over the steps of the task so far, ``w`` in eq. 3."""
    importance: Tensor
    """``Omega`` in eq. 5."""
    anchor: Tensor
    """The weights after the latest task; those at the start, of the first."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        super().__init__()
        self.register_buffer("anchor", flat(weights).detach())
        self.register_buffer("path", torch.zeros_like(self.anchor))
        self.register_buffer("importance", torch.zeros_like(self.anchor))

    def distance(self, weights: Tensor) -> Tensor:
        """``sum_i Omega_i (theta_i - a_i)**2``."""
        return (self.importance * (weights - self.anchor).square()).sum()

    def consolidate(self, weights: Tensor, damping: float) -> None:
        """End a task with these weights (eq. 5)."""
        change = weights - self.anchor
        self.importance += self.path.clamp(min=0) / (change.square() + damping)
        self.anchor.copy_(weights)
        self.path.zero_()


def flat(tensors: list[nn.Parameter] | list[Tensor]) -> Tensor:
    """All tensors as one new vector (P,)."""
    return torch.cat([tensor.flatten() for tensor in tensors])
