"""Sums of powers of the gradients of single examples, from one pass of many through a network.

The gradient of an example with respect to a layer's weights is a function of the layer's input and of the
gradient with respect to its output, for that example alone. So one forward pass and one backward pass through
the activations serve all examples of a chunk; the gradients of the weights follow layer by layer, and no more
of them than one layer's are in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call

from .layer_calls import Call, NotByLayers, foldable, recorded
from .layer_gradients import Power, folded_sums, layer_gradients, power_of, power_sum

Directions = Callable[[Tensor, slice], Tensor]
"""Vectors (B, V, *output) of examples, from their output (B, *output) and their rows in the chunk."""


@attrs.define(eq=False)
class GradientSums:
    """Sums over examples of squared gradients of ``<v, output>``, or of their absolute values: (P,), all
    weights in order, flattened.

    Args:
        network: has the weights; in eval mode.
        arguments: its arguments for inputs (B, ...) by name; its output is (B, ...).
        weights: the parameters to differentiate by, by name in the network.
        power: 2 for squares, 1 for absolute values.
    """

    network: nn.Module
    arguments: Callable[[Mapping[str, Tensor]], tuple[Any, ...]]
    weights: Mapping[str, Tensor]
    power: Power = 2
    _ways: list[Callable[[Mapping[str, Tensor], Directions], Tensor]] = attrs.field(init=False)
    """Those to compute a sum that have not failed, the fastest first."""
    _checked: bool = attrs.field(default=False, init=False)
    _pairs: dict[nn.Module, nn.Module] | None = attrs.field(default=None, init=False)
    """Convolutions with the batch norm to fold into each; None before the first examples."""

    def __attrs_post_init__(self) -> None:
        self._ways = [self._folded, self._layers, self._alone]

    @property
    def largest(self) -> int:
        """The number of weights of the largest layer."""
        chosen = {id(weight) for weight in self.weights.values()}
        sizes = [
            sum(own.numel() for own in layer._parameters.values() if own is not None and id(own) in chosen)
            for layer in self._owners()
        ]
        return max(sizes, default=1)

    def sum(self, inputs: Mapping[str, Tensor], directions: Directions) -> Tensor:
        """The sum over the examples of a chunk.

        The first two examples of all are computed by backpropagation of each alone too. Where that differs,
        or layers have other inputs and outputs than batches of tensors, all examples are backpropagated
        alone, and a warning says so.

        Args:
            inputs: (B, ...) by name.
            directions: the vectors v of the examples.
        """
        if not self._checked:
            self._check({name: value[:2] for name, value in inputs.items()})
        while True:
            try:
                return self._ways[0](inputs, directions)
            except NotByLayers as error:
                self._drop(str(error))

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        """Drop the ways that differ from backpropagation of each example alone, for random directions: those
        of a loss near zero are all rounding."""
        self._checked = True
        slow = self._alone(inputs, _random)
        rounding = (100 * torch.finfo(slow.dtype).eps) ** self.power  # where the gradient is zero
        while len(self._ways) > 1:
            try:
                fast = self._ways[0](inputs, _random)
                if torch.allclose(fast, slow, rtol=1e-2, atol=max(1e-4 * float(slow.max()), rounding)):
                    return
                self._drop("its layers give other gradients than backpropagation of an example alone")
            except (NotByLayers, RuntimeError) as error:
                self._drop(str(error).partition("\n")[0])

    def _drop(self, reason: str) -> None:
        del self._ways[0]
        if len(self._ways) == 1:
            name = type(self.network).__name__
            warnings.warn(f"{name}: gradients are computed example by example: {reason}", stacklevel=2)

    def _folded(self, inputs: Mapping[str, Tensor], directions: Directions) -> Tensor:
        """By layers, with images in the order that is faster on a CPU and batch norms folded."""
        inputs = {
            name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for name, value in inputs.items()
        }
        if self._pairs is None:
            owners = self._owners()
            with torch.no_grad(), recorded(owners, {}) as recording:
                self.network(*self.arguments(inputs))
                self._pairs = foldable(recording.calls, [*self.network.modules()])
        return self._backward(inputs, directions, self._pairs)

    def _layers(self, inputs: Mapping[str, Tensor], directions: Directions) -> Tensor:
        return self._backward(inputs, directions, {})

    def _backward(
        self, inputs: Mapping[str, Tensor], directions: Directions, pairs: dict[nn.Module, nn.Module]
    ) -> Tensor:
        names = {id(weight): name for name, weight in self.weights.items()}
        sums = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        pending: dict[str, Tensor] = {}
        more = False

        def receive(call: Call, gradient: Tensor) -> None:
            call.check()
            if call.norm is not None:
                for weight, value in folded_sums(call, gradient, self.power, more).items():
                    if id(weight) in names:
                        sums[names[id(weight)]] += value
                return
            own = {
                key: names[id(weight)]
                for key, weight in call.layer._parameters.items()
                if weight is not None and id(weight) in names
            }
            for key, value in layer_gradients(call, gradient, list(own), more).items():
                name = own[key]
                if uses[name] == 1:
                    sums[name] += power_sum(value, self.power)
                else:
                    pending[name] = pending[name] + value if name in pending else value

        with torch.enable_grad(), recorded(self._owners(), pairs, receive) as recording:
            output: Tensor = self.network(*self.arguments(inputs))
            recording.is_open = False
            if not output.requires_grad or not recording.leaves:
                raise NotByLayers("its output depends on none of the layers with weights")
            uses = self._uses(recording.calls, names)
            vectors = directions(output.detach(), slice(0, len(output)))
            for number in range(vectors.shape[1]):
                more = number + 1 < vectors.shape[1]
                torch.autograd.grad(output, recording.leaves, vectors[:, number], more, allow_unused=True)
                for name in list(pending):  # a weight's gradient is the sum over its uses
                    sums[name] += power_sum(pending.pop(name), self.power)
        return flat(sums)

    @staticmethod
    def _uses(calls: list[Call], names: Mapping[int, str]) -> dict[str, int]:
        """How many calls use a weight."""
        uses: dict[str, int] = {}
        for call in calls:
            for own in call.layer._parameters.values():
                if id(own) in names:
                    uses[names[id(own)]] = uses.get(names[id(own)], 0) + 1
        return uses

    def _alone(self, inputs: Mapping[str, Tensor], directions: Directions) -> Tensor:
        weights = {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}
        total = torch.zeros_like(flat(self.weights))
        for row in range(len(next(iter(inputs.values())))):
            chosen = slice(row, row + 1)
            arguments = self.arguments({name: value[chosen] for name, value in inputs.items()})
            with torch.enable_grad():
                output: Tensor = functional_call(self.network, weights, arguments)
            vectors = directions(output.detach(), chosen)
            for number in range(vectors.shape[1]):
                more = number + 1 < vectors.shape[1]
                gradients = torch.autograd.grad(
                    output,
                    list(weights.values()),
                    vectors[:, number],
                    more,
                    allow_unused=True,
                    materialize_grads=True,
                )
                total += power_of(flat(dict(zip(weights, gradients, strict=True))), self.power)
        return total

    def _owners(self) -> list[nn.Module]:
        """The layers that own weights."""
        chosen = {id(weight) for weight in self.weights.values()}
        return [
            layer
            for layer in self.network.modules()
            if any(id(own) in chosen for own in layer._parameters.values())
        ]


def _random(output: Tensor, rows: slice) -> Tensor:
    """A random vector (1, *output) for each row (B, *output), the same for a row in every chunk."""
    generators = [torch.Generator().manual_seed(row) for row in range(rows.start, rows.stop)]
    vectors = [torch.randn(output.shape[1:], generator=generator) for generator in generators]
    return torch.stack(vectors)[:, None].to(output)


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All tensors as one vector (P,)."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])
