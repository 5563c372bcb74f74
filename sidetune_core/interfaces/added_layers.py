"""Layers that are added to frozen ones: parallel adapters and low-rank updates, zero at first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import cast

import attrs
import torch
from torch import Tensor, nn


def parallel_adapter(layer: nn.Module, rank: int) -> nn.Module | None:
    """A parallel adapter of a convolution or linear layer; None for a convolution of 1 x 1, to which another
    one would add as many weights as it has.

    A convolution gets one of 1 x 1 with its stride and groups, without bias (Rebuffi et al., CVPR 2018). A
    linear layer gets a bottleneck of `rank` units with ReLU (He et al., ICLR 2022).
    """
    place = _Place.of(layer)
    if isinstance(layer, nn.Linear):
        return nn.Sequential(
            place.linear(layer.in_features, rank), nn.ReLU(), _zero(place.linear(rank, layer.out_features))
        )
    assert isinstance(layer, nn.Conv2d)
    if set(layer.kernel_size) == {1}:
        return None
    conv = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        1,
        stride=_pair(layer.stride),
        groups=layer.groups,
        bias=False,
        device=place.device,
        dtype=place.dtype,
    )
    margins = _margins(layer)
    return nn.Sequential(nn.ZeroPad2d(margins), _zero(conv)) if any(margins) else _zero(conv)


def low_rank_update(layer: nn.Module, rank: int) -> nn.Module | None:
    """A low-rank update ``BAx`` of a convolution or linear layer, with A as PyTorch initialises a layer and
    B zero (Hu et al., ICLR 2022, with a scale of 1); None for a convolution in groups.
    """
    place = _Place.of(layer)
    if isinstance(layer, nn.Linear):
        down = place.linear(layer.in_features, rank, bias=False)
        return nn.Sequential(down, _zero(place.linear(rank, layer.out_features, bias=False)))
    assert isinstance(layer, nn.Conv2d)
    if layer.groups > 1:
        return None
    first = nn.Conv2d(
        layer.in_channels,
        rank,
        _pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=layer.padding if isinstance(layer.padding, str) else _pair(layer.padding),
        dilation=_pair(layer.dilation),
        bias=False,
        padding_mode=layer.padding_mode,
        device=place.device,
        dtype=place.dtype,
    )
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=False, device=place.device, dtype=place.dtype)
    return nn.Sequential(first, _zero(second))


def called_layers(network: nn.Module, run: Callable[[], object]) -> list[str]:
    """Names of the convolutions and linear layers that `run`, a pass through a network, calls as modules.

    Others may read a layer's weights, as attention in PyTorch does: what is added to the output of such a
    layer would change nothing. Only `torch.nn.Conv2d` and `torch.nn.Linear` themselves are listed, since
    subclasses may compute something else.
    """
    called: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        return lambda *_: called.add(name)

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if type(module) in (nn.Conv2d, nn.Linear)
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name, _ in network.named_modules() if name in called]


def largest_rank(layers: Iterable[nn.Module]) -> int:
    """The largest rank that a low-rank update of one of these layers can use: no update needs more rows than
    its layer has inputs or outputs; 0 without a convolution or linear layer.
    """
    return max(
        (
            min(layer.in_features, layer.out_features)
            if isinstance(layer, nn.Linear)
            else min(layer.in_channels * prod(layer.kernel_size), layer.out_channels)
            for layer in layers
            if isinstance(layer, (nn.Linear, nn.Conv2d))
        ),
        default=0,
    )


@attrs.frozen
class _Place:
    """Where the weights of a layer are."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, layer: nn.Module) -> _Place:
        weight = cast(Tensor, layer.weight)
        return cls(weight.device, weight.dtype)

    def linear(self, c_in: int, c_out: int, bias: bool = True) -> nn.Linear:
        return nn.Linear(c_in, c_out, bias, device=self.device, dtype=self.dtype)


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _margins(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """What to add to a map on the left, right, top and bottom, so that a 1 x 1 convolution sees the centres
    of the positions of a wider kernel; negative where that sees less.
    """
    margins: list[int] = []
    for axis in (1, 0):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        if conv.padding == "same":
            margins += [0, 0]
        else:
            padding = 0 if isinstance(conv.padding, str) else conv.padding[axis]
            margins += [padding - reach // 2, padding - (reach - reach // 2)]
    left, right, top, bottom = margins
    return left, right, top, bottom


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second
