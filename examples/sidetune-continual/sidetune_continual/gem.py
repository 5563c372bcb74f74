"""Gradient episodic memory (GEM)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from sidetune_core.api import (
    Batch,
    BufferDict,
    Components,
    Heads,
    Learner,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    mean_loss,
    option,
)

from ._examples import batch_of, first_distinct, inputs_of


class GEM(Learner):
    """Fine-tuning whose steps do not, to first order, increase the loss on the memory of any earlier task
    (Lopez-Paz & Ranzato, Gradient Episodic Memory for Continual Learning, NIPS 2017).

    ``g`` is the gradient of a step and ``g_k`` that of the mean loss on the memory of an earlier task k.
    Where some ``g . g_k < 0``, the step is taken with ``g + sum_k v_k g_k``, where ``v >= margin`` minimises
    the norm of that vector (eq. 11). With margin 0 it is the vector nearest to ``g`` that has a negative
    product with no ``g_k`` (eq. 8). All gradients cover all weights, heads of earlier tasks included. The
    memory has examples of each task drawn at its end, uniformly and not by class (the paper: the last ones).

    Each step computes a gradient for each earlier task: its cost grows with the number of tasks, and A-GEM
    (learner `agem`) is the cheaper form. The guarantee is that of plain SGD: Adam scales the gradient, and
    momentum and weight decay add to it. The memory passes through the network in training mode, so that batch
    norm averages over earlier tasks too. Examples are stored as the network saw them, augmentation included.
    """

    @attrs.frozen
    class Config:
        """Options of `GEM`."""

        memory: int = option(256, "stored examples of each task", at_least(1))
        margin: float = option(
            0.5,
            "smallest weight of each earlier task's gradient in a correction (gamma in the paper)",
            at_least(0),
        )
        norm: bool = option(
            True, "standardise the encoding before the head (8 groups of channels, no parameters)"
        )

    scenarios = frozenset({"task", "domain", "class"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm, components.scenario)
        self.memory = nn.ModuleDict()
        self._config, self._shapes = config, components.inputs
        self._tasks: dict[str, Task] = {}

    def start(self, task: Task) -> Trainable:
        self._tasks[task.id] = task
        self.memory[task.id] = BufferDict()
        self.heads.add_task(task)
        return [self.base, self.heads]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id, inputs)

    def after_backward(self, task: Task, step: TrainingStep) -> None:
        earlier = [other for other in self._tasks.values() if self._stored(other.id)]
        if not earlier:
            return
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        rows = torch.stack([self._memory_gradient(other, weights, step) for other in earlier])
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        gradient = torch.cat([own.flatten() for own in gradients])
        projected = project(gradient, rows, self._config.margin)
        if projected is gradient:
            return
        pieces = torch.split(projected, [weight.numel() for weight in weights])
        for weight, piece in zip(weights, pieces, strict=True):
            weight.grad = piece.view(weight.shape).clone()

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        self._stored(task.id).replace(first_distinct(batches, self._config.memory, self._shapes))

    def _memory_gradient(self, task: Task, weights: list[nn.Parameter], step: TrainingStep) -> Tensor:
        """The gradient (P,) of the mean loss on the memory of a task."""
        stored = self._stored(task.id)
        columns = {name: stored[name] for name in stored}
        with step.autocast():
            loss = mean_loss(task, self(inputs_of(columns), task.id), batch_of(columns))
        gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in gradients])

    def _stored(self, task_id: str) -> BufferDict:
        stored = self.memory[task_id]
        assert isinstance(stored, BufferDict)
        return stored


def project(gradient: Tensor, rows: Tensor, margin: float = 0.0) -> Tensor:
    """The gradient (P,) corrected for those of earlier tasks, `rows` (K, P); itself without a conflict.

    The dual problem (eq. 11), ``min_v v' H v / 2 + c' v`` for ``v >= margin`` with ``H = G G'`` and
    ``c = G g``, is one of non-negative least squares in K dimensions: with ``H = A' A`` and
    ``v = margin + u`` it minimises ``|A u - b|`` for ``u >= 0`` where ``A' b = -(c + H margin)``.
    """
    if bool((rows @ gradient >= 0).all()):
        return gradient
    known = rows.double()
    products = known @ known.T  # H
    energies, vectors = torch.linalg.eigh(products)
    kept = energies > energies[-1] * 1e-12
    root, vectors = energies[kept].sqrt(), vectors[:, kept]
    linear = known @ gradient.double() + products.sum(1) * margin
    unit, _ = nnls((root[:, None] * vectors.T).cpu().numpy(), -(vectors.T @ linear / root).cpu().numpy())
    weights = margin + torch.as_tensor(unit, device=known.device)
    return (gradient.double() + weights @ known).to(gradient.dtype)
