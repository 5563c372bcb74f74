"""The gradients of single examples with respect to the weights of a layer, from one call of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional
from torch.nn import grad as conv_gradients
from torch.utils._pytree import tree_map

from .layer_calls import CONVOLUTIONS, Call, NotByLayers, has_statistics, has_windows

Power = Literal[1, 2]
"""Of the absolute value of a gradient."""

LARGE = 2**14
"""Elements of a weight from which the powers of many examples are added one by one: they are not written."""

CONV_WEIGHT: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: conv_gradients.conv1d_weight,
    nn.Conv2d: conv_gradients.conv2d_weight,
    nn.Conv3d: conv_gradients.conv3d_weight,
}


def layer_gradients(call: Call, gradient: Tensor, names: list[str], keep: bool = False) -> dict[str, Tensor]:
    """The gradient (B, *weight) of each example with respect to weights of a layer, by name.

    Args:
        call: of the layer, without a folded norm.
        gradient: with respect to its output (B, ...).
        names: of the weights.
        keep: there will be other gradients for this call.
    """
    layer: Any = call.layer
    count = len(gradient)
    if any(len(value) != count for value in call.tensors):
        raise NotByLayers(f"{type(layer).__name__} changes the number of rows")
    value = call.tensors[0].detach()
    found: dict[str, Tensor] = {}
    if has_windows(layer) and value.ndim == layer.weight.ndim:
        columns, weight = _convolution(call, gradient, keep)
        kernel = (count, layer.out_channels, *layer.kernel_size, layer.in_channels)
        found = {"weight": weight.view(kernel).movedim(-1, 2), "bias": columns.sum(1)}
    elif type(layer) in CONVOLUTIONS and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        shape = layer.weight.shape
        grouped = CONV_WEIGHT[
            type(layer)
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
    elif type(layer) is nn.Linear and value.ndim > 1:
        columns = gradient.reshape(count, -1, gradient.shape[-1])
        rows = value.reshape(count, -1, value.shape[-1])
        found = {"weight": torch.bmm(columns.mT, rows), "bias": columns.sum(1)}
    elif has_statistics(layer):
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
    return _by_vmap(call, gradient, names)


def folded_sums(call: Call, gradient: Tensor, power: Power, keep: bool) -> dict[Tensor, Tensor]:
    """The sums over the examples of the powers of the gradients of a convolution and of the norm that is
    folded into it, by weight.

    For a convolution ``z = w x + b`` and a norm ``y = c (z - m) / s + d``, with the gradient g of y: the norm
    needs no pass over its maps, as ``sum(g z)`` of a channel is the product of w and the gradient of w.

    Args:
        call: of the convolution.
        gradient: with respect to the output of the norm (B, ...).
        power: see `power_sum`.
        keep: there will be other gradients for this call.
    """
    layer: Any = call.layer
    norm, weight = call.norm, layer.weight.detach()
    columns, outer = _convolution(call, gradient, keep)
    totals = columns.sum(1)  # (B, out)
    deviation = torch.rsqrt(norm.running_var + norm.eps)
    scale = norm.weight.detach() * deviation
    mean = norm.running_mean if layer.bias is None else norm.running_mean - layer.bias.detach()
    products = (outer * weight.movedim(1, -1).flatten(1)).sum(2)
    standard = (products - mean * totals) * deviation
    sums = power_sum(outer, power).view(weight.shape[0], *weight.shape[2:], -1).movedim(-1, 1)
    found = {
        layer.weight: sums * power_of(scale, power).view(-1, *(1,) * (weight.ndim - 1)),
        norm.weight: power_of(standard, power).sum(0),
    }
    total = power_of(totals, power).sum(0)
    if norm.bias is not None:
        found[norm.bias] = total
    if layer.bias is not None:
        found[layer.bias] = total * power_of(scale, power)
    return found


def power_of(values: Tensor, power: Power) -> Tensor:
    """The squares of values, or their absolute values."""
    return values.square() if power == 2 else values.abs()


def power_sum(values: Tensor, power: Power) -> Tensor:
    """The sum (...) over the examples of the squares of values (B, ...), or of their absolute values."""
    if values[0].numel() < LARGE:
        return power_of(values, power).sum(0)
    total = power_of(values[0], power)
    for value in values[1:]:
        if power == 2:
            total.addcmul_(value, value)
        else:
            total += value.abs()
    return total


def _convolution(call: Call, gradient: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """The gradient (B, positions, out) of the output, and its products (B, out, kernel * in) with the windows
    of the input."""
    rows = windows(call) if call.windows is None else call.windows
    call.windows = rows if keep else None
    columns = gradient.movedim(1, -1).reshape(len(gradient), -1, gradient.shape[1])
    return columns, torch.bmm(columns.mT, rows)


def windows(call: Call) -> Tensor:
    """The part of the padded input of a convolution that gives each of its outputs, (B, positions, kernel *
    in)."""
    layer: Any = call.layer
    value = call.tensors[0].detach().movedim(1, -1)
    padding = [size for size in reversed(layer.padding) for _ in range(2)]
    value = functional.pad(value, (0, 0, *padding))
    examples, *axes, channel = value.stride()
    sizes = call.output.shape[2:]
    value = value.as_strided(
        (len(value), *sizes, *layer.kernel_size, value.shape[-1]),
        (
            examples,
            *(stride * step for stride, step in zip(axes, layer.stride, strict=True)),
            *(stride * step for stride, step in zip(axes, layer.dilation, strict=True)),
            channel,
        ),
        value.storage_offset(),
    )
    return value.reshape(len(value), sizes.numel(), -1)


def _by_vmap(call: Call, gradient: Tensor, names: list[str]) -> dict[str, Tensor]:
    """For a layer of any kind."""
    layer = call.layer
    owned = layer._parameters.items()
    weights = {name: own.detach() for name, own in owned if own is not None and name in names}

    def of_example(arguments: tuple[Any, ...], upstream: Tensor) -> dict[str, Tensor]:
        batch = tree_map(lambda value: value.unsqueeze(0), arguments)
        pull = vjp(lambda values: functional_call(layer, values, batch), weights)[1]
        gradients: dict[str, Tensor] = pull(upstream.unsqueeze(0))[0]
        return gradients

    arguments = tree_map(lambda value: value.detach(), call.arguments)
    result: dict[str, Tensor] = vmap(of_example)(arguments, gradient)
    return result
