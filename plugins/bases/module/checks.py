"""The network of a user as a module of the base's own: checked, copied, in float32 on the CPU."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sidetune_core.api import FitError

WRAPPERS = {
    "DataParallel": "pass the network inside of it, network.module",
    "DistributedDataParallel": "pass the network inside of it, network.module",
    "FullyShardedDataParallel": "pass the network before it was sharded",
    "OptimizedModule": "pass the network before torch.compile, network._orig_mod",
}
"""What to pass instead, by the name of a class of torch that wraps a network."""


def own_copy(given: nn.Module) -> nn.Module:
    """A copy of a network in eval mode, in float32 on the CPU. The network itself is not changed.

    Raises:
        FitError: it cannot be copied, or is a wrapper, a TorchScript module, or has no values yet.
    """
    title = type(given).__name__
    for part in given.modules():
        kind = type(part).__name__
        if kind in WRAPPERS and type(part).__module__.startswith("torch."):
            raise FitError(f"base 'module': the network is a {kind}: {WRAPPERS[kind]}")
        if isinstance(part, torch.jit.ScriptModule):
            raise FitError(f"base 'module': {kind} is TorchScript: pass the network that it was made from")
        if type(part).__module__.startswith("torch.ao.nn.quantized"):
            raise FitError(f"base 'module': {title} is quantised ({kind}): pass the network before that")
    tensors = {**dict(given.named_parameters()), **dict(given.named_buffers())}
    lazy = [name for name, tensor in tensors.items() if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise FitError(
            f"base 'module': {len(lazy)} parameters of {title} are not initialised ({lazy[0]}): call the "
            "network on an example first"
        )
    if empty := [name for name, tensor in tensors.items() if tensor.is_meta]:
        raise FitError(
            f"base 'module': {len(empty)} tensors of {title} are on the meta device, without values "
            f"({empty[0]}): load its weights first"
        )
    try:
        copied = copy.deepcopy(given)
    except Exception as error:  # whatever the members of the network raise
        raise FitError(
            f"base 'module': {title} cannot be copied (copy.deepcopy: {error}); remove members such as open "
            "files, and tensors with a gradient history"
        ) from error
    return copied.cpu().float().eval().requires_grad_(False)


def randomise(network: nn.Module) -> None:
    """Give a network new random weights, for learners that train from scratch.

    Modules with ``reset_parameters()`` do it themselves. Other parameters are drawn from a normal
    distribution with the mean and standard deviation of their values, so that constants stay.
    """
    drawn: set[int] = set()
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            drawn |= {id(parameter) for parameter in module.parameters(recurse=False)}
    with torch.no_grad():
        for parameter in network.parameters():
            if id(parameter) not in drawn and parameter.is_floating_point():
                _redraw(parameter)


def _redraw(parameter: Tensor) -> None:
    if parameter.numel() > 1 and (spread := float(parameter.std())) > 0:
        parameter.normal_(float(parameter.mean()), spread)
