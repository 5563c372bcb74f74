"""Record the calls of layers in a forward pass, with batch norms folded into convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class NotByLayers(Exception):
    """The gradients of examples do not follow from the inputs and outputs of layers."""


@attrs.define(eq=False)
class Call:
    """A call of a layer that owns weights."""

    layer: nn.Module
    arguments: tuple[Any, ...]
    """Tensors (B, ...), and lists of them."""
    tensors: tuple[Tensor, ...]
    """All of them."""
    versions: tuple[int, ...]
    """Of the tensors: a network may overwrite them in place after the call."""
    output: Tensor
    version: int
    norm: Any = None
    """The batch norm that is folded into the layer."""
    windows: Tensor | None = None
    """Of the input of a convolution (see `layer_gradients.windows`), for further directions."""

    def check(self) -> None:
        """Check that the input is what it was.

        Raises:
            NotByLayers: it was overwritten.
        """
        if self.versions != tuple(value._version for value in self.tensors):
            raise NotByLayers("it overwrites the input of a layer in place")


@attrs.define(eq=False)
class Recording:
    """The calls of a forward pass."""

    calls: list[Call] = attrs.field(factory=list)
    leaves: list[Tensor] = attrs.field(factory=list)
    """The outputs of layers whose inputs depend on no other layer: where a backward pass ends."""
    is_open: bool = True
    """Whether further calls belong to the forward pass."""


@contextmanager
def recorded(
    layers: Sequence[nn.Module],
    pairs: Mapping[nn.Module, nn.Module],
    receive: Callable[[Call, Tensor], None] | None = None,
) -> Iterator[Recording]:
    """Record the calls of some layers within the block.

    Args:
        layers: those to record.
        pairs: convolutions, each with the batch norm in eval mode that alone takes its output. The norm is
            folded into the weights of the convolution, and returns its input.
        receive: is given each call and the gradient (B, ...) with respect to its output, in each backward
            pass to the leaves.
    """
    recording = Recording()
    norms = set(pairs.values())

    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not recording.is_open:
            return None
        tensors = _tensors(args)
        if kwargs or tensors is None or not isinstance(output, Tensor):
            raise NotByLayers(f"{type(layer).__name__} takes or returns something else than tensors")
        if torch.is_grad_enabled() and not any(value.requires_grad for value in tensors):
            leaf = output.detach().requires_grad_()
            recording.leaves.append(leaf)
            output = leaf.clone()  # the network may change it in place
        versions = tuple(value._version for value in tensors)
        call = Call(layer, args, tensors, versions, output, output._version, pairs.get(layer))
        recording.calls.append(call)
        if receive is not None:
            handles.append(output.register_hook(lambda gradient: receive(call, gradient)))
        return output

    handles: list[RemovableHandle] = []  # those of tensors and calls refer to each other, until removed
    try:
        for layer in layers:
            if layer not in norms:
                handles.append(layer.register_forward_hook(record, with_kwargs=True))
        for layer, norm in pairs.items():
            _fold(layer, norm, recording)
        yield recording
    finally:
        for handle in handles:
            handle.remove()
        for module in (*pairs, *norms):
            module.__dict__.pop("forward", None)


def _fold(layer: Any, norm: Any, recording: Recording) -> None:
    """Let the layer compute what it and the norm compute, and the norm nothing."""
    scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    weight = layer.weight.detach() * scale.view(-1, *(1,) * (layer.weight.ndim - 1))
    shift = layer.bias.detach() if layer.bias is not None else 0
    bias = (shift - norm.running_mean) * scale + norm.bias.detach()

    def unchanged(value: Tensor) -> Tensor:
        call = recording.calls[-1] if recording.calls else None
        if (
            call is None
            or call.norm is not norm
            or value is not call.output
            or value._version != call.version
        ):
            raise NotByLayers(f"the input of {type(norm).__name__} differs from one call to the next")
        return value

    layer.__dict__["forward"] = lambda value: layer._conv_forward(value, weight, bias)
    norm.__dict__["forward"] = unchanged


def foldable(calls: Sequence[Call], layers: Sequence[nn.Module]) -> dict[nn.Module, nn.Module]:
    """The convolutions whose output a batch norm takes, with that norm; both are called once, and share no
    weight with another layer.

    Whether something else takes the output too is not known from the calls.
    """
    times: dict[int, int] = {}
    owned = (own for layer in layers for own in layer._parameters.values())
    for item in (*(call.layer for call in calls), *owned):
        times[id(item)] = times.get(id(item), 0) + 1
    found: dict[nn.Module, nn.Module] = {}
    for call, following in zip(calls, calls[1:], strict=False):
        layer, norm = call.layer, following.layer
        alone = all(
            times[id(item)] == 1
            for module in (layer, norm)
            for item in (module, *(own for own in module._parameters.values() if own is not None))
        )
        same = following.tensors[0] is call.output and following.versions[0] == call.version
        if alone and same and has_windows(layer) and has_statistics(norm):
            found[layer] = norm
    return found


def has_windows(layer: Any) -> bool:
    """Whether it is a convolution whose weights multiply windows of its zero-padded input, in one group."""
    if type(layer) not in CONVOLUTIONS or isinstance(layer.padding, str):
        return False
    return bool(layer.groups == 1 and layer.padding_mode == "zeros")


def has_statistics(layer: Any) -> bool:
    """Whether it is a batch norm in eval mode, with weights."""
    if type(layer) not in BATCH_NORMS or layer.training:
        return False
    return layer.running_mean is not None and layer.weight is not None


def _tensors(arguments: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    """The tensors among arguments; None if one of them is neither a tensor nor a list of tensors."""
    tensors: list[Tensor] = []
    for value in arguments:
        members = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(member, Tensor) for member in members):
            return None
        tensors += members
    return tuple(tensors) or None
