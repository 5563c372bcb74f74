"""Estimators of the diagonal of the Fisher information of a network's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Literal

import attrs
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from sidetune_core.api import Batch, FitError, Inputs, Learner, Outputs, SupervisedTask, Task

Estimator = Literal["exact", "sample", "empirical", "batched", "legacy"]

MAX_GRADIENT_ELEMENTS = 2**24
"""Limit on the elements of per-example gradients in memory: 64 MiB in float32, with up to three copies."""


@attrs.frozen(eq=False)
class Fisher:
    """The diagonal of the Fisher information of `weights` in a task: (P,), all weights in order, flattened.

    With ``g(x, y)`` the gradient of ``-log p(y|x)``, x an input of the training split and p the learner's
    prediction:

    - exact: mean over x of ``sum_c p(c|x) g(x, c)**2``, which is the definition;
    - sample: mean over x of ``g(x, c)**2``, with one c drawn from ``p(c|x)``;
    - empirical: mean over x of ``g(x, y)**2``, with y the true label;
    - batched: mean over batches of ``(mean over the batch of g(x, y))**2``, with y the true label;
    - legacy: batched, over one epoch of the training split.

    Of outputs ``binary``, y is one of the 2**K sets of labels, which are independent: the exact Fisher is the
    mean over x of ``sum_l p_l (1 - p_l) (d z_l / d w)**2`` for the logits z, and sample draws every label.

    ``-log p(y|x)`` is the `negative_log_likelihood` of a `SupervisedTask`, which neither class weights nor a
    mean over labels scale. Of other tasks it is the loss, whatever it is.

    The estimates differ in scale, so a coefficient for one need not suit another (van de Ven, arXiv
    2502.11756): where the gradients of a batch are independent, batched is smaller than empirical by a
    factor of the batch size.

    Args:
        learner: in eval mode.
        task: for exact and sample, its outputs are ``binary``, or ``exp(-loss)`` of an example with label c
            is ``p(c|x)``, as in cross-entropy.
        weights: the parameters of the learner to include, by name.
    """

    learner: Learner
    task: Task
    weights: Mapping[str, Tensor]

    def estimate(self, estimator: Estimator, batches: Iterator[Batch], max_examples: int) -> Tensor:
        """The estimate on at most `max_examples` training examples.

        Args:
            estimator: see above.
            batches: an endless stream of the task's training batches.
            max_examples: each example is used once; batched rounds to whole batches, legacy ignores it.

        Raises:
            FitError: the estimator is exact or sample, and the task is neither a classification with
                cross-entropy nor one of several labels.
        """
        total = torch.zeros_like(flat(self.weights))
        if estimator in ("batched", "legacy"):
            first = next(batches)
            size = len(first.targets)
            count = self.task.steps_per_epoch(size)
            if estimator == "batched":
                count = min(count, max(1, round(max_examples / size)))
            for batch in islice(chain([first], batches), count):
                total += self._square(dict(batch.inputs), batch.ids, batch.targets)
            return total / count
        count = 0
        for batch in distinct(batches, max_examples):
            total += self._sum(batch, estimator)
            count += len(batch.targets)
        return total / count

    def _sum(self, batch: Batch, estimator: Estimator) -> Tensor:
        """(P,), the sum over the examples of a batch, each with the labels that the estimator requires."""
        examples = torch.arange(len(batch.targets), device=batch.targets.device)
        labels, weights = batch.targets, None
        square: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor] = self._square
        binary = self.task.outputs.is_binary
        if estimator == "exact":
            weights = self._variances(batch) if binary else self._probabilities(batch)
            if binary:
                square = self._square_of_logit
            columns = weights.shape[1]
            dtype = torch.int64 if binary else labels.dtype
            labels = torch.arange(columns, device=labels.device, dtype=dtype).repeat(len(examples))
            examples, weights = examples.repeat_interleave(columns), weights.flatten()
        elif estimator == "sample":
            if binary:
                labels = torch.bernoulli(self._label_probabilities(batch)).to(labels.dtype)
            else:
                labels = torch.multinomial(self._probabilities(batch), 1)[:, 0].to(labels.dtype)
        total = torch.zeros_like(flat(self.weights))
        step = max(1, min(len(batch.targets), MAX_GRADIENT_ELEMENTS // len(total)))
        for start in range(0, len(examples), step):
            chunk = slice(start, start + step)
            rows = examples[chunk]
            inputs = {name: value[rows].unsqueeze(1) for name, value in batch.inputs.items()}
            ids, targets = batch.ids[rows.cpu()].unsqueeze(1), labels[chunk].unsqueeze(1)
            squares = vmap(square)(inputs, ids, targets)
            if weights is None:
                total += squares.sum(0)
            else:
                total += weights[chunk].to(total.dtype) @ squares
        return total

    def _square(self, inputs: dict[str, Tensor], ids: Tensor, targets: Tensor) -> Tensor:
        """(P,), the squared gradient of the mean ``-log p(y|x)`` of the examples."""
        return self._squared_gradient(
            inputs, lambda output: self._nll(output, Batch(ids, Inputs(inputs), targets)).mean()
        )

    def _square_of_logit(self, inputs: dict[str, Tensor], ids: Tensor, labels: Tensor) -> Tensor:
        """(P,), the squared gradient of the logit of a label (1,) of an example."""
        return self._squared_gradient(inputs, lambda output: output.gather(1, labels[:, None]).sum())

    def _squared_gradient(self, inputs: dict[str, Tensor], value: Callable[[Tensor], Tensor]) -> Tensor:
        """(P,), of a scalar of the output."""

        def of_weights(weights: dict[str, Tensor]) -> Tensor:
            return value(functional_call(self.learner, weights, (inputs, self.task.id)))

        weights = {name: weight.detach() for name, weight in self.weights.items()}
        gradients: dict[str, Tensor] = grad(of_weights)(weights)
        return flat({name: gradients[name] for name in weights}).square()

    def _nll(self, output: Tensor, batch: Batch) -> Tensor:
        """(B,), ``-log p(y|x)``; the loss of a task that does not have it."""
        if isinstance(self.task, SupervisedTask) and type(self.task).loss is SupervisedTask.loss:
            return self.task.objective.negative_log_likelihood(output, batch.targets)
        return self.task.loss(output, batch)

    def _label_probabilities(self, batch: Batch) -> Tensor:
        """(B, K), of each label."""
        require_targets(batch, self.task.outputs)
        with torch.no_grad():
            output: Tensor = self.learner(Inputs(batch.inputs), self.task.id)
        if output.shape != batch.targets.shape:
            raise FitError(NOT_CLASSIFICATION.format(f"outputs of shape {tuple(output.shape)}"))
        return output.sigmoid()

    def _variances(self, batch: Batch) -> Tensor:
        """(B, K), of each label."""
        probabilities = self._label_probabilities(batch)
        return probabilities * (1 - probabilities)

    def _probabilities(self, batch: Batch) -> Tensor:
        """``p(c|x)`` of the examples of a batch: (B, classes)."""
        with torch.no_grad():
            output = self.learner(Inputs(batch.inputs), self.task.id)
            require_targets(batch, self.task.outputs)
            if output.ndim != 2:
                raise FitError(NOT_CLASSIFICATION.format(f"outputs of shape {tuple(output.shape)}"))
            labels = [torch.full_like(batch.targets, label) for label in range(output.shape[1])]
            losses = [self._nll(output, Batch(batch.ids, batch.inputs, label)) for label in labels]
            probabilities = torch.stack(losses, 1).neg().exp()
        if not torch.allclose(probabilities.sum(1), torch.ones_like(probabilities[:, 0]), atol=1e-3):
            raise FitError(NOT_CLASSIFICATION.format("a loss other than the cross-entropy of its classes"))
        return probabilities


NOT_CLASSIFICATION = (
    "the Fisher estimators 'exact' and 'sample' need outputs (B, classes), integer targets (B,) and "
    "cross-entropy; "
    "this task has {}. Use --learner.fisher 'empirical' or 'batched'"
)


def require_targets(batch: Batch, outputs: Outputs) -> None:
    """Check that the targets are classes, or sets of labels.

    Raises:
        FitError: the targets are not integers of shape (B,), or for outputs ``binary`` not of shape (B, K).
    """
    targets = batch.targets
    has_labels = outputs.is_binary and targets.ndim == 2
    has_classes = not outputs.is_binary and targets.ndim == 1 and not targets.is_floating_point()
    if not (has_labels or has_classes):
        described = f"targets {tuple(targets.shape)} of {targets.dtype}"
        raise FitError(NOT_CLASSIFICATION.format(described))


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All tensors as one vector (P,)."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def distinct(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """The first `count` distinct examples, in batches of varying size; fewer if a batch repeats all."""
    seen: set[int] = set()
    while len(seen) < count:
        batch = next(batches)
        new = {example_id: row for row, example_id in enumerate(batch.ids.tolist()) if example_id not in seen}
        if not new:
            return
        rows = list(new.values())[: count - len(seen)]
        seen.update(batch.ids[rows].tolist())
        tensors = {name: value[rows] for name, value in batch.inputs.items()}
        yield Batch(batch.ids[rows], Inputs(tensors), batch.targets[rows])
