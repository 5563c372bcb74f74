"""Estimators of the diagonal of the Fisher information of a network's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Literal

import attrs
import torch
from torch import Tensor
from torch.func import functional_call, grad

from sidetune_core.api import Batch, FitError, Inputs, Learner, Outputs, SupervisedTask, Task

from .per_example import GradientSums, flat

Estimator = Literal["exact", "sample", "empirical", "batched", "legacy"]

MAX_GRADIENT_ELEMENTS = 2**24
"""Limit on the elements of the gradients of a layer, of all examples of a chunk: 64 MiB in float32."""

MAX_EXAMPLES = 16
"""In a chunk: the activations of all layers are in memory; more are not faster on a CPU."""


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
        squares = GradientSums(self.learner, lambda inputs: (inputs, self.task.id), self.weights)
        count = 0
        for batch in distinct(batches, max_examples):
            total += self._sum(batch, estimator, squares)
            count += len(batch.targets)
        return total / count

    def _sum(self, batch: Batch, estimator: Estimator, squares: GradientSums) -> Tensor:
        """(P,), the sum over the examples of a batch, each with the labels that the estimator requires."""
        targets = self._drawn(batch) if estimator == "sample" else batch.targets
        batch = Batch(batch.ids, batch.inputs, targets)
        if estimator == "exact":
            require_targets(batch, self.task.outputs)
        total = torch.zeros_like(flat(self.weights))
        for chunk in chunks(batch, squares):

            def directions(output: Tensor, rows: slice, chunk: Batch = chunk) -> Tensor:
                part = rows_of(chunk, rows)
                if estimator != "exact":
                    return self._scores(output, part)[1][:, None]
                return self._factors(output, part)

            total += squares.sum(chunk.inputs, directions)
        return total

    def _factors(self, output: Tensor, batch: Batch) -> Tensor:
        """Vectors v (B, V, K) with ``sum_v v v^T = sum_c p(c|x) s_c s_c^T``, the Fisher information of the
        output, for ``s_c`` the gradient of ``-log p(c|x)`` with respect to the output.

        As ``sum_c p_c s_c`` is zero, one class less than there are is enough: a reflection of the vectors
        ``sqrt(p_c) s_c`` that maps ``sqrt(p)`` to the first axis makes the first of them zero.
        """
        if self.task.outputs.is_binary:
            probabilities = self._label_probabilities(output, batch)
            return torch.diag_embed((probabilities * (1 - probabilities)).sqrt())
        nll, scores = self._class_scores(output, batch)
        roots = check_sum(nll.neg().exp()).sqrt()[:, :, None].to(scores.dtype)
        scaled = roots * scores
        return scaled[:, 1:] - roots[:, 1:] * scaled[:, :1] / (1 + roots[:, :1])

    def _class_scores(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """``-log p(c|x)`` (B, C) and its gradient with respect to the output (B, C, C), for every class."""
        if output.ndim != 2:
            raise FitError(NOT_CLASSIFICATION.format(f"outputs of shape {tuple(output.shape)}"))
        labels = [torch.full_like(batch.targets, label) for label in range(output.shape[1])]
        pairs = [self._scores(output, Batch(batch.ids, batch.inputs, label)) for label in labels]
        return torch.stack([nll for nll, _ in pairs], 1), torch.stack([score for _, score in pairs], 1)

    def _scores(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """``-log p(y|x)`` (B,) of the targets, and its gradient with respect to the output (B, ...)."""
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            nll = self._nll(leaf, batch)
            (gradient,) = torch.autograd.grad(nll.sum(), leaf)
        return nll.detach(), gradient

    def _drawn(self, batch: Batch) -> Tensor:
        """Targets that are drawn from the predicted distribution."""
        require_targets(batch, self.task.outputs)
        with torch.no_grad():
            output = self.learner(Inputs(batch.inputs), self.task.id)
        if self.task.outputs.is_binary:
            return torch.bernoulli(self._label_probabilities(output, batch)).to(batch.targets.dtype)
        probabilities = check_sum(self._class_scores(output, batch)[0].neg().exp())
        return torch.multinomial(probabilities, 1)[:, 0].to(batch.targets.dtype)

    def _square(self, inputs: dict[str, Tensor], ids: Tensor, targets: Tensor) -> Tensor:
        """(P,), the squared gradient of the mean ``-log p(y|x)`` of the examples."""
        return self._squared_gradient(
            inputs, lambda output: self._nll(output, Batch(ids, Inputs(inputs), targets)).mean()
        )

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

    def _label_probabilities(self, output: Tensor, batch: Batch) -> Tensor:
        """(B, K), of each label."""
        if output.shape != batch.targets.shape:
            raise FitError(NOT_CLASSIFICATION.format(f"outputs of shape {tuple(output.shape)}"))
        return output.sigmoid()


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


def check_sum(probabilities: Tensor) -> Tensor:
    """The probabilities (B, C) of classes.

    Raises:
        FitError: they do not sum to one.
    """
    if not torch.allclose(probabilities.sum(1), torch.ones_like(probabilities[:, 0]), atol=1e-3):
        raise FitError(NOT_CLASSIFICATION.format("a loss other than the cross-entropy of its classes"))
    return probabilities


def chunks(batch: Batch, sums: GradientSums) -> Iterator[Batch]:
    """The examples of a batch, as many at a time as memory allows."""
    count = len(batch.targets)
    size = max(1, min(count, MAX_EXAMPLES, MAX_GRADIENT_ELEMENTS // sums.largest))
    for start in range(0, count, size):
        yield rows_of(batch, slice(start, start + size))


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Some examples of a batch; their inputs have no ids, so that no output is a stored one."""
    inputs = {name: value[rows] for name, value in batch.inputs.items()}
    return Batch(batch.ids[rows], Inputs(inputs), batch.targets[rows])


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
