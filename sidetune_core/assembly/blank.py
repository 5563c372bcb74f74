"""The blank example that networks are run on before data is read, and what they compute for it."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.config.resolve import ResolvedComponent
from sidetune_core.interfaces.inputs import Features, InputShapes
from sidetune_core.interfaces.networks import Base, Merger, Side
from sidetune_core.system.precision import Cost, CostMeter

_Network = TypeVar("_Network", bound=nn.Module)


@attrs.frozen(eq=False)
class BlankBase:
    """A base with random weights, and its features of a blank example."""

    component: ResolvedComponent
    base: Base
    inputs: InputShapes
    features: Features
    cost: Cost = Cost()
    """Of the base, for one example."""
    madds: int | None = None
    """Multiply-adds of the base for one example; None if they are not known (see `CostMeter.covers`)."""

    @property
    def blank(self) -> dict[str, Tensor]:
        """The blank example (1, *shape) by name, on the current default device."""
        return {name: torch.zeros(1, *shape) for name, shape in self.inputs.items()}

    @property
    def parameters(self) -> int:
        """Number of parameters of the base."""
        return count_parameters(self.base)

    def meta_base(self) -> Base:
        """A copy of the base on the meta device, without taking memory for its weights."""
        return self.on_meta(self.base)

    def on_meta(self, network: _Network) -> _Network:
        """A copy on the meta device of the base, or of a network that may refer to its weights."""
        memo: dict[int, Any] = {id(self.base.cache): None}
        for one in (self.base, network):
            for parameter in one.parameters():
                memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            memo |= {id(buffer): buffer.to("meta") for buffer in one.buffers()}
        return copy.deepcopy(network, memo)


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, each counted once."""
    return sum(parameter.numel() for parameter in network.parameters())


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's parameters."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def moved(features: Features, device: torch.device) -> Features:
    """Features on a device."""
    return Features(features.encoding.to(device), tuple(tap.to(device) for tap in features.taps))


def side_cost(side: Side, blank: BlankBase, owner: str) -> CostMeter:
    """Counts what a side that fits computes for one example, on the device of its parameters."""
    device, meter = device_of(side), CostMeter()
    with torch.no_grad(), torch.device(device), meter.counting(side, owner):
        side.eval()(blank.blank, moved(blank.features, device))
    return meter


def merger_cost(merger: Merger, blank: BlankBase) -> CostMeter:
    """Counts what a merger of two encodings computes for one example; see `side_cost`."""
    device, meter = device_of(merger), CostMeter()
    encoding = blank.features.encoding.to(device)
    with torch.no_grad(), torch.device(device), meter.counting(merger, "merger"):
        merger.eval()([encoding, encoding])
    return meter
