"""Gradient projection memory (GPM)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TypeGuard

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    BufferDict,
    Components,
    FitError,
    Heads,
    Learner,
    ParamGroup,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    at_most,
    option,
    shorten,
)

from ._examples import Columns, first_distinct, inputs_of

Layer = nn.Linear | nn.Conv2d

CHUNK = 64
"""Examples in a forward pass of `finish`."""


class GPM(Learner):
    """Fine-tuning with gradients orthogonal to the inputs that each layer had in earlier tasks (Saha et al.,
    Gradient Projection Memory for Continual Learning, ICLR 2021).

    A linear layer or convolution multiplies columns X, inputs or patches, by a matrix W. At the end of task
    t, with the directions M so far, the leading left singular vectors of ``X - M M^T X`` join M (eq. 8), as
    few as keep the fraction ``threshold + growth (t - 1)`` of the squared norm of X (eq. 9). Gradients become
    ``G - G M M^T`` (eq. 6), so that the layer's outputs for those X stay the same. So do the changes of
    the weights, since those of Adam are no multiples of the gradient.

    Weights have no decay. Biases are trained on the first task only, norms and other weights of the base not
    at all: a fixed network around the layers is what keeps their inputs the same. The paper trains from
    scratch, without biases. Convolutions in groups or with other padding than zeros stay as they are. Each
    task has a head of its own: it is defined in the scenario ``task`` only.

    Raises:
        FitError: the base has no such layer, or one is not called as a module, so that its inputs are not
            known.
    """

    @attrs.frozen
    class Config:
        """Options of `GPM`."""

        threshold: float = option(
            0.97, "fraction of the squared norm of a layer's inputs to keep", at_least(0), at_most(1)
        )
        growth: float = option(0.003, "added to the threshold after each task, up to 1", at_least(0))
        examples: int = option(125, "training examples of each task for the directions", at_least(1))
        norm: bool = option(
            True, "standardise the encoding before the head (8 groups of channels, no parameters)"
        )

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm)
        self.directions = BufferDict()
        """M (D, K) of each layer by its name, orthonormal."""
        self._config, self._shapes = config, components.inputs
        self._layers = layers(self.base)
        self._before: dict[str, Tensor] = {}  # from after_backward to after_step
        if not self._layers:
            raise FitError("learner 'gpm' needs a base with linear layers or convolutions")

    def start(self, task: Task) -> Trainable:
        trained = [own for layer in self._layers.values() for own in layer.parameters() if own.ndim > 1]
        if not self.heads:
            trained += [layer.bias for layer in self._layers.values() if isinstance(layer.bias, nn.Parameter)]
        return [ParamGroup(trained, weight_decay=0.0), self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id, inputs)

    def after_backward(self, task: Task, step: TrainingStep) -> None:
        for name in self.directions:
            weight = self._layers[name].weight
            self._before[name] = weight.detach().clone()
            if weight.grad is not None:
                weight.grad -= within(weight.grad, self.directions[name])

    def after_step(self, task: Task, step: TrainingStep) -> None:
        for name, before in self._before.items():
            weight = self._layers[name].weight.detach()
            weight -= within(weight - before, self.directions[name])
        self._before.clear()

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        threshold = min(1.0, self._config.threshold + self._config.growth * (len(self.heads) - 1))
        known = {name: self.directions[name] for name in self.directions}
        grams = self._grams(first_distinct(batches, self._config.examples, self._shapes))
        if missing := self._layers.keys() - grams.keys():
            raise FitError(
                f"learner 'gpm' does not know the inputs of {shorten(sorted(missing))}: the base uses their "
                "weights without calling them. Choose another base with --base"
            )
        for name, gram in grams.items():
            old = known.get(name, gram.new_empty(len(gram), 0)).double()
            known[name] = torch.cat([old, new_directions(gram, old, threshold)], 1).float()
        self.directions.replace(known)

    def _grams(self, columns: Columns) -> dict[str, Tensor]:
        """``X X^T`` (D, D) of each layer by its name, for some examples, in float64."""
        grams: dict[str, Tensor] = {}

        def add(name: str, layer: Layer, arguments: tuple[Tensor]) -> None:
            rows = layer_columns(layer, arguments[0]).double()
            grams[name] = grams.get(name, 0) + rows.T @ rows

        with torch.no_grad(), ExitStack() as stack:
            for name, layer in self._layers.items():
                stack.enter_context(layer.register_forward_pre_hook(partial(add, name)))
            inputs = inputs_of(columns)
            for chunk in zip(*(torch.split(values, CHUNK) for values in inputs.values()), strict=True):
                self.base(dict(zip(inputs, chunk, strict=True)))
        return grams


def layers(base: nn.Module) -> dict[str, Layer]:
    """The layers to train by their names, with dashes for dots: those that multiply inputs or patches."""
    attention = [module for module in base.modules() if isinstance(module, nn.MultiheadAttention)]
    inside = {id(part) for module in attention for part in module.modules()}  # computes with them itself
    return {
        name.replace(".", "-"): module
        for name, module in base.named_modules()
        if id(module) not in inside and is_supported(module)
    }


def is_supported(module: nn.Module) -> TypeGuard[Layer]:
    """Whether the columns that a module multiplies are known."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def within(matrix: Tensor, directions: Tensor) -> Tensor:
    """The part of a weight's gradient or change (out, ...) within directions (D, K)."""
    return (matrix.flatten(1) @ directions @ directions.T).reshape(matrix.shape)


def layer_columns(layer: Layer, inputs: Tensor) -> Tensor:
    """The columns that a layer's weight multiplies, as rows: (N, D)."""
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)
    assert not isinstance(layer.padding, str)
    patches = functional.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.movedim(1, 2).flatten(0, 1)


def new_directions(gram: Tensor, known: Tensor, threshold: float) -> Tensor:
    """The fewest directions (D, K) to add to those `known` (D, k) to keep a fraction `threshold` of the
    squared norm of X with ``X X^T = gram`` (D, D): left singular vectors of ``X - M M^T X``.
    """
    outside = torch.eye(len(gram)).to(gram) - known @ known.T
    rest = outside @ gram @ outside
    energies, vectors = torch.linalg.eigh(rest)  # ascending
    energies, vectors = energies.flip(0).clamp(min=0), vectors.flip(1)
    missing = (1 - threshold) * gram.trace()
    left = rest.trace() - torch.cat([energies.new_zeros(1), energies.cumsum(0)])
    count = int((left > missing + 1e-9 * gram.trace()).sum())
    added: Tensor = vectors[:, :count]
    return added
