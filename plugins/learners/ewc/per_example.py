"""Squared gradients of single examples, from one pass of many through a network.

The gradient of an example with respect to a layer's weights is a function of the layer's input and of the
gradient with respect to its output, for that example alone. So one forward pass and one backward pass through
the activations serve all examples of a chunk; the gradients of the weights follow layer by layer, and no more
of them than one layer's are in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import grad as conv_gradients
from torch.utils._pytree import tree_map

Directions = Callable[[Tensor, slice], Tensor]
"""Vectors (B, V, *output) of examples, from their output (B, *output) and their rows in the chunk."""

CONV_WEIGHT: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: conv_gradients.conv1d_weight,
    nn.Conv2d: conv_gradients.conv2d_weight,
    nn.Conv3d: conv_gradients.conv3d_weight,
}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class NotByLayers(Exception):
    """The gradients of examples do not follow from the inputs and outputs of layers."""


@attrs.frozen(eq=False)
class Use:
    """A call of a layer that owns weights."""

    layer: nn.Module
    arguments: tuple[Any, ...]
    """Tensors (B, ...), and lists of them."""
    tensors: tuple[Tensor, ...]
    """All of them."""
    versions: tuple[int, ...]
    """Of the tensors: a network may overwrite them in place after the call."""
    output: Tensor


@attrs.define(eq=False)
class SquaredGradients:
    """Sums over examples of squared gradients of ``<v, output>``: (P,), all weights in order, flattened.

    Args:
        network: has the weights; in eval mode.
        arguments: its arguments for inputs (B, ...) by name; its output is (B, ...).
        weights: the parameters to differentiate by, by name in the network.
    """

    network: nn.Module
    arguments: Callable[[Mapping[str, Tensor]], tuple[Any, ...]]
    weights: Mapping[str, Tensor]
    _by_layers: bool | None = attrs.field(default=None, init=False)
    """Whether layers are differentiated; None before the first examples."""

    @property
    def largest(self) -> int:
        """The number of weights of the largest layer."""
        owned = self._owned()
        return max((sum(weight.numel() for weight in own.values()) for _, own in owned), default=1)

    def sum(self, inputs: Mapping[str, Tensor], directions: Directions) -> Tensor:
        """The sum over the examples of a chunk.

        The first two examples of all are computed by backpropagation of each alone too. Where that differs,
        or layers have other inputs and outputs than batches of tensors, all examples are backpropagated
        alone, and a warning says so.

        Args:
            inputs: (B, ...) by name.
            directions: the vectors v of the examples.
        """
        count = len(next(iter(inputs.values())))
        if self._by_layers is None:
            self._by_layers = self._agrees({name: value[:2] for name, value in inputs.items()})
        if self._by_layers:
            return self._layers(inputs, directions, slice(0, count))
        return self._alone(inputs, directions)

    def _agrees(self, inputs: Mapping[str, Tensor]) -> bool:
        """Whether layers give what backpropagation of each example alone gives, for random directions: those
        of a loss near zero are all rounding."""
        count = len(next(iter(inputs.values())))
        try:
            fast = self._layers(inputs, _random, slice(0, count))
            slow = self._alone(inputs, _random)
            rounding = (100 * torch.finfo(slow.dtype).eps) ** 2  # where the gradient is zero
            if torch.allclose(fast, slow, rtol=1e-2, atol=max(1e-4 * float(slow.max()), rounding)):
                return True
            reason = "its layers give other gradients than backpropagation of an example alone"
        except (NotByLayers, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
        name = type(self.network).__name__
        warnings.warn(f"{name}: the Fisher is computed example by example: {reason}", stacklevel=2)
        return False

    def _layers(self, inputs: Mapping[str, Tensor], directions: Directions, rows: slice) -> Tensor:
        with torch.enable_grad(), self._recorded() as uses:
            output: Tensor = self.network(*self.arguments(inputs))
        if not output.requires_grad:
            raise NotByLayers("its output depends on none of the layers with weights")
        for use in uses:
            if use.versions != tuple(value._version for value in use.tensors):
                raise NotByLayers("it overwrites the input of a layer in place")
        vectors = directions(output.detach(), rows)
        outputs = [use.output for use in uses]
        sums = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        for number in range(vectors.shape[1]):
            more = number + 1 < vectors.shape[1]
            gradients = torch.autograd.grad(output, outputs, vectors[:, number], more, allow_unused=True)
            self._add(sums, uses, gradients)
        return flat(sums)

    def _add(self, sums: dict[str, Tensor], uses: list[Use], gradients: tuple[Tensor | None, ...]) -> None:
        """Add the squares of the gradients of all examples; those of several uses of a weight are added
        before."""
        names = {id(weight): name for name, weight in self.weights.items()}
        pending: dict[str, Tensor] = {}
        last = {
            name: number
            for number, use in enumerate(uses)
            for name in (names.get(id(own)) for own in use.layer._parameters.values())
            if name is not None
        }
        for number, (use, gradient) in enumerate(zip(uses, gradients, strict=True)):
            own = {
                key: names[id(weight)]
                for key, weight in use.layer._parameters.items()
                if weight is not None and id(weight) in names
            }
            if gradient is not None:
                for key, value in layer_gradients(use, gradient, list(own)).items():
                    name = own[key]
                    pending[name] = pending[name] + value if name in pending else value
            for name in own.values():
                if last[name] == number and name in pending:
                    sums[name] += pending.pop(name).square().sum(0)

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
                total += flat(dict(zip(weights, gradients, strict=True))).square()
        return total

    def _owned(self) -> list[tuple[nn.Module, dict[str, nn.Parameter]]]:
        """The layers that own weights, with those by their names there."""
        chosen = {id(weight) for weight in self.weights.values()}
        owned = [
            (
                layer,
                {key: own for key, own in layer._parameters.items() if own is not None and id(own) in chosen},
            )
            for layer in self.network.modules()
        ]
        return [(layer, own) for layer, own in owned if own]

    @contextmanager
    def _recorded(self) -> Iterator[list[Use]]:
        """Within the block, the calls of the layers that own weights."""
        uses: list[Use] = []

        def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
            tensors = _tensors(args)
            if kwargs or tensors is None or not isinstance(output, Tensor):
                raise NotByLayers(f"{type(layer).__name__} takes or returns something else than tensors")
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            uses.append(Use(layer, args, tensors, tuple(value._version for value in tensors), output))
            copy: Tensor = output.clone()  # the network may change it in place
            return copy

        handles = [layer.register_forward_hook(record, with_kwargs=True) for layer, _ in self._owned()]
        try:
            yield uses
        finally:
            for handle in handles:
                handle.remove()


def _random(output: Tensor, rows: slice) -> Tensor:
    """A random vector (1, *output) for each row (B, *output), the same for a row in every chunk."""
    generators = [torch.Generator().manual_seed(row) for row in range(rows.start, rows.stop)]
    vectors = [torch.randn(output.shape[1:], generator=generator) for generator in generators]
    return torch.stack(vectors)[:, None].to(output)


def _tensors(arguments: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    """The tensors among arguments; None if one of them is neither a tensor nor a list of tensors."""
    tensors: list[Tensor] = []
    for value in arguments:
        members = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(member, Tensor) for member in members):
            return None
        tensors += members
    return tuple(tensors) or None


def layer_gradients(use: Use, gradient: Tensor, names: list[str]) -> dict[str, Tensor]:
    """The gradient (B, *weight) of each example with respect to weights of a layer, by name.

    Args:
        use: a call of the layer.
        gradient: with respect to its output (B, ...).
        names: of the weights.
    """
    layer: Any = use.layer
    count = len(gradient)
    if any(len(value) != count for value in use.tensors):
        raise NotByLayers(f"{type(layer).__name__} changes the number of rows")
    kind, value = type(layer), use.tensors[0].detach()
    found: dict[str, Tensor] = {}
    if kind in CONV_WEIGHT and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        shape = layer.weight.shape
        grouped = CONV_WEIGHT[
            kind
        ](  # a group of channels for each example
            value.reshape(1, -1, *value.shape[2:]),
            [count * shape[0], *shape[1:]],
            gradient.reshape(1, -1, *gradient.shape[2:]),
            layer.stride,
            layer.padding,
            layer.dilation,
            count * layer.groups,
        )
        found = {"weight": grouped.view(count, *shape), "bias": gradient.flatten(2).sum(2)}
    elif kind is nn.Linear and value.ndim > 1:
        columns = gradient.reshape(count, -1, gradient.shape[-1])
        rows = value.reshape(count, -1, value.shape[-1])
        found = {"weight": torch.bmm(columns.mT, rows), "bias": columns.sum(1)}
    elif kind in BATCH_NORMS and not layer.training and layer.running_mean is not None:
        scale = torch.rsqrt(layer.running_var + layer.eps)
        shape = (1, -1, *(1,) * (value.ndim - 2))
        standard = (value - layer.running_mean.view(shape)) * scale.view(shape)
        axes = [*range(2, value.ndim)]
        weight = standard * gradient
        found = {
            "weight": weight.sum(axes) if axes else weight,
            "bias": gradient.sum(axes) if axes else gradient,
        }
    if set(names) <= found.keys():
        return {name: found[name] for name in names}
    weights = {name: layer._parameters[name].detach() for name in names}

    def of_example(arguments: tuple[Any, ...], upstream: Tensor) -> dict[str, Tensor]:
        batch = tree_map(lambda value: value.unsqueeze(0), arguments)
        pull = vjp(lambda values: functional_call(layer, values, batch), weights)[1]
        gradients: dict[str, Tensor] = pull(upstream.unsqueeze(0))[0]
        return gradients

    arguments = tree_map(lambda value: value.detach(), use.arguments)
    result: dict[str, Tensor] = vmap(of_example)(arguments, gradient)
    return result


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All tensors as one vector (P,)."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])
