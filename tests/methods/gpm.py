"""GPM: gradients orthogonal to the inputs that layers had in earlier tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

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
)

Layer = nn.Linear | nn.Conv2d


class GPM(Learner):
    """Every task trains the linear layers and convolutions of one base, orthogonally to the earlier inputs of
    each layer (Saha et al., ICLR 2021).

    A layer multiplies columns X, inputs or patches, by a matrix W. After a task, the leading left singular
    vectors of what the directions M so far leave of X join M (eq. 8 and 9). Gradients become
    ``G - G M M^T`` (eq. 6); so do the changes of the weights, since those of Adam are not multiples of the
    gradient. Weights have no decay; biases are trained on the first task only.

    Raises:
        FitError: the base has no linear layer or convolution.
    """

    @attrs.frozen
    class Config:
        """Options of `GPM`."""

        threshold: float = option(0.97, "fraction of the inputs' energy to keep", at_least(0), at_most(1))
        examples: int = option(128, "training examples per task for the directions", at_least(1))

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)
        self.projections = BufferDict()  # M M^T of each layer by its name
        self._config = config
        self._before: dict[str, Tensor] = {}  # weights, within a step
        if not self._layers():
            raise FitError("learner 'gpm' needs a base with linear layers or convolutions")

    def start(self, task: Task) -> Trainable:
        layers = self._layers().values()
        weights = [layer.weight for layer in layers]
        if not len(self.heads):
            weights += [layer.bias for layer in layers if layer.bias is not None]
        return [ParamGroup(weights, weight_decay=0.0), self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    @torch.no_grad()
    def after_backward(self, task: Task, step: TrainingStep) -> None:
        for name in self.projections:
            weight = self._layers()[name].weight
            self._before[name] = weight.clone()
            if weight.grad is not None:
                weight.grad -= project(weight.grad, self.projections[name])

    @torch.no_grad()
    def after_step(self, task: Task, step: TrainingStep) -> None:
        for name in self.projections:
            weight = self._layers()[name].weight
            weight -= project(weight - self._before[name], self.projections[name])

    @torch.no_grad()
    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        grams: dict[str, Tensor] = {}

        def add(name: str, layer: Layer, arguments: tuple[Tensor]) -> None:
            rows = columns(layer, arguments[0]).double()
            grams[name] = grams.get(name, 0) + rows.T @ rows

        left = self._config.examples
        with ExitStack() as stack:
            for name, layer in self._layers().items():
                stack.enter_context(layer.register_forward_pre_hook(partial(add, name)))
            while left > 0:
                batch = next(batches).rows(slice(left))
                self.base(dict(batch.inputs))
                left -= len(batch.ids)
        for name, gram in grams.items():
            known = self.projections[name].double() if name in self.projections else torch.zeros_like(gram)
            new = directions(gram, known, self._config.threshold)
            self.projections[name] = (known + new @ new.T).float()

    def _layers(self) -> dict[str, Layer]:
        """Linear layers and convolutions of the base by name, without dots."""
        return {
            name.replace(".", "-"): module
            for name, module in self.base.named_modules()
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        }


def project(matrix: Tensor, projection: Tensor) -> Tensor:
    """The part of a weight's gradient or change (out, ...) within a projection (D, D)."""
    return (matrix.flatten(1) @ projection).reshape(matrix.shape)


def columns(layer: Layer, inputs: Tensor) -> Tensor:
    """The columns that a layer's weight multiplies, as rows: (N, D)."""
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)
    patches = functional.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.movedim(1, 2).flatten(0, 1)


def directions(gram: Tensor, known: Tensor, threshold: float) -> Tensor:
    """The fewest directions (D, K) to add to a projection `known` (D, D) for it to keep a fraction
    `threshold` of the squared norm of columns X with ``X X^T = gram``: left singular vectors of what it
    leaves of X.
    """
    rest = gram - known @ gram - gram @ known + known @ gram @ known
    energies, vectors = torch.linalg.eigh(rest)  # ascending
    energies, vectors = energies.flip(0).clamp(min=0), vectors.flip(1)
    missing = gram.trace() * (1 - threshold)
    left = rest.trace() - torch.cat([energies.new_zeros(1), energies.cumsum(0)])
    return vectors[:, : int((left > missing + 1e-9 * gram.trace()).sum())]
