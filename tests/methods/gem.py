"""GEM: gradients that do not increase the loss on remembered examples of earlier tasks."""

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
    Inputs,
    Learner,
    Task,
    TrainingStep,
    at_least,
    mean_loss,
    option,
)


class GEM(Learner):
    """Every task trains one base; gradients keep to the losses of earlier tasks.

    Where the gradient g of the base's weights has a negative inner product with the gradient g_k of the loss
    on the memory of an earlier task k, it is replaced by the nearest vector that has none (Lopez-Paz and
    Ranzato, NIPS 2017, eq. 8 to 11). Inputs of variable length are not supported.
    """

    @attrs.frozen
    class Config:
        """Options of `GEM`."""

        memory: int = option(64, "stored examples per task", at_least(1))
        margin: float = option(0.0, "smallest weight of each task's gradient in a correction", at_least(0))

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)
        self.memory = BufferDict()
        self._config = config
        self._tasks: dict[str, Task] = {}

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        self._tasks[task.id] = task
        return [*self.base.parameters(), self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def after_backward(self, task: Task, step: TrainingStep) -> None:
        weights = [weight for weight in self.base.parameters() if weight.grad is not None]
        earlier = [known for known in self._tasks.values() if known is not task]
        if not earlier or not weights:
            return
        rows = torch.stack([self._memory_gradient(known, weights, step) for known in earlier])
        gradient = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
        projected = project(gradient, rows, self._config.margin)
        pieces = projected.split([weight.numel() for weight in weights])
        for weight, piece in zip(weights, pieces, strict=True):
            weight.grad = piece.view_as(weight)

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        left, parts = self._config.memory, []
        while left > 0:
            parts.append(next(batches).rows(slice(left)))
            left -= len(parts[-1].ids)
        self.memory[f"{task.id}/targets"] = torch.cat([part.targets for part in parts])
        for name in parts[0].inputs:
            self.memory[f"{task.id}/inputs/{name}"] = torch.cat([part.inputs[name] for part in parts])

    def stored(self, task_id: str) -> Batch:
        """The memory of an earlier task."""
        prefix, targets = f"{task_id}/inputs/", self.memory[f"{task_id}/targets"]
        names = [name for name in self.memory if name.startswith(prefix)]
        inputs = Inputs({name.removeprefix(prefix): self.memory[name] for name in names})
        return Batch(torch.arange(len(targets)), inputs, targets)

    def _memory_gradient(self, task: Task, weights: list[nn.Parameter], step: TrainingStep) -> Tensor:
        """The gradient (P,) of the loss on the memory of an earlier task."""
        batch = self.stored(task.id)
        with step.autocast():
            loss = mean_loss(task, self(batch.inputs, task.id), batch)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in gradients])


def project(gradient: Tensor, rows: Tensor, margin: float = 0.0) -> Tensor:
    """The vector (P,) nearest to `gradient` (P,) whose inner products with `rows` (K, P) are not negative.

    It is ``gradient + rows.T @ v``, where v solves the dual problem: its norm is minimal for ``v >= margin``.
    By a QR decomposition that is a non-negative least squares problem in K dimensions.
    """
    if bool((rows @ gradient >= 0).all()):
        return gradient
    columns = rows.double().T
    shifted = gradient.double() + margin * columns.sum(1)
    q, r = torch.linalg.qr(columns)
    dual, _ = nnls(r.cpu().numpy(), -(q.T @ shifted).cpu().numpy())
    return (shifted + columns @ torch.as_tensor(dual, device=columns.device)).to(gradient.dtype)
