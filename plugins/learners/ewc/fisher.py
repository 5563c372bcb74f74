"""Estimates of the diagonal of the Fisher information of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Literal

import attrs
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from sidetune_core.api import Batch, FitError, Inputs, Learner, Task

Estimator = Literal["exact", "sample", "empirical", "batched", "legacy"]

HELD = 2**24
"""Most numbers in gradients of single examples that are held at once: 64 MiB in float32, of which there are up to three copies."""


@attrs.frozen(eq=False)
class Fisher:
    """The diagonal of the Fisher information of `weights` in a task: (P,), all weights in their order, flat.

    With ``g(x, y)`` the gradient of the loss of one example (for cross-entropy, of ``-log p(y|x)``), x an input of the training split
    and p what the learner predicts:

    - exact: mean over x of ``sum_c p(c|x) g(x, c)**2``, which is the definition;
    - sample: mean over x of ``g(x, c)**2``, with one c drawn from ``p(c|x)``;
    - empirical: mean over x of ``g(x, y)**2``, with y the true label;
    - batched: mean over batches of ``(mean over the batch of g(x, y))**2``, with y the true label;
    - legacy: batched, over one whole pass of the training split.

    These are different numbers, and a coefficient that suits one of them need not suit another (van de Ven, arXiv 2502.11756): where
    the gradients of a batch are independent, batched is smaller than empirical by the size of the batch.

    Args:
        learner: in eval mode.
        task: for exact and sample, ``exp(-loss)`` of an example with label c has to be ``p(c|x)``, as it is for cross-entropy.
        weights: some of the learner's parameters by name.
    """

    learner: Learner
    task: Task
    weights: Mapping[str, Tensor]

    def estimate(self, how: Estimator, batches: Iterator[Batch], examples: int) -> Tensor:
        """The estimate over as many `examples`, or over all that there are if they are fewer.

        Args:
            how: see above.
            batches: the task's training batches without end.
            examples: each is used once; for batched it is rounded to whole batches, for legacy it does not matter.

        Raises:
            FitError: exact or sample, and the task is no classification with cross-entropy.
        """
        total = torch.zeros_like(flat(self.weights))
        if how in ("batched", "legacy"):
            first = next(batches)
            size = len(first.targets)
            count = self.task.steps_per_epoch(size)
            if how == "batched":
                count = min(count, max(1, round(examples / size)))
            for batch in islice(chain([first], batches), count):
                total += self._square(dict(batch.inputs), batch.ids, batch.targets)
            return total / count
        count = 0
        for batch in distinct(batches, examples):
            total += self._sum(batch, how)
            count += len(batch.targets)
        return total / count

    def _sum(self, batch: Batch, how: Estimator) -> Tensor:
        """(P,), over the examples of a batch, each with the labels that the estimator gives it."""
        examples = torch.arange(len(batch.targets), device=batch.targets.device)
        labels, chance = batch.targets, None
        if how == "exact":
            chance = self._chances(batch)
            classes = chance.shape[1]
            labels = torch.arange(classes, device=labels.device, dtype=labels.dtype).repeat(len(examples))
            examples, chance = examples.repeat_interleave(classes), chance.flatten()
        elif how == "sample":
            labels = torch.multinomial(self._chances(batch), 1)[:, 0].to(labels.dtype)
        total = torch.zeros_like(flat(self.weights))
        step = max(1, min(len(batch.targets), HELD // len(total)))
        for start in range(0, len(examples), step):
            chosen = slice(start, start + step)
            rows = examples[chosen]
            inputs = {name: value[rows].unsqueeze(1) for name, value in batch.inputs.items()}
            squares = vmap(self._square)(
                inputs, batch.ids[rows.cpu()].unsqueeze(1), labels[chosen].unsqueeze(1)
            )
            total += squares.sum(0) if chance is None else chance[chosen].to(total.dtype) @ squares
        return total

    def _square(self, inputs: dict[str, Tensor], ids: Tensor, targets: Tensor) -> Tensor:
        """(P,), of the gradient of the mean loss of some examples."""

        def loss(weights: dict[str, Tensor]) -> Tensor:
            output = functional_call(self.learner, weights, (inputs, self.task.id))
            return self.task.loss(output, Batch(ids, Inputs(inputs), targets)).mean()

        weights = {name: weight.detach() for name, weight in self.weights.items()}
        gradients: dict[str, Tensor] = grad(loss)(weights)
        return flat({name: gradients[name] for name in weights}).square()

    def _chances(self, batch: Batch) -> Tensor:
        """``p(c|x)`` for the examples of a batch: (B, classes)."""
        with torch.no_grad():
            output = self.learner(Inputs(batch.inputs), self.task.id)
            require_labels(batch)
            if output.ndim != 2:
                raise FitError(NO_CLASSES.format(f"outputs of shape {tuple(output.shape)}"))
            labels = [torch.full_like(batch.targets, label) for label in range(output.shape[1])]
            losses = [self.task.loss(output, Batch(batch.ids, batch.inputs, label)) for label in labels]
            chances = torch.stack(losses, 1).neg().exp()
        if not torch.allclose(chances.sum(1), torch.ones_like(chances[:, 0]), atol=1e-3):
            raise FitError(NO_CLASSES.format("a loss that is not the cross-entropy of its classes"))
        return chances


NO_CLASSES = (
    "a Fisher that is 'exact' or 'sample' is an expectation over classes, with outputs (B, classes), one whole number for each example as "
    "its target, and cross-entropy; this task has {}. Take 'empirical' or 'batched'"
)


def require_labels(batch: Batch) -> None:
    """See that targets are classes.

    Raises:
        FitError: they are not (B,) whole numbers.
    """
    if batch.targets.ndim != 1 or batch.targets.is_floating_point():
        raise FitError(NO_CLASSES.format(f"targets {tuple(batch.targets.shape)} of {batch.targets.dtype}"))


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All of them as one vector (P,)."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def distinct(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """The first `count` different examples, in batches that may be short; fewer, if a batch brings none that is new."""
    seen: set[int] = set()
    while len(seen) < count:
        batch = next(batches)
        fresh = {number: row for row, number in enumerate(batch.ids.tolist()) if number not in seen}
        if not fresh:
            return
        rows = list(fresh.values())[: count - len(seen)]
        seen.update(batch.ids[rows].tolist())
        tensors = {name: value[rows] for name, value in batch.inputs.items()}
        yield Batch(batch.ids[rows], Inputs(tensors), batch.targets[rows])
