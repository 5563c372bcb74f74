"""The optimiser of a task and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Final

import torch
from torch import Tensor, nn

from sidetune_core.config.spec import TrainOptions
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import Merger


def make_optimizer(learner: Learner, options: TrainOptions) -> torch.optim.Optimizer:
    """A new optimiser over the parameters that require a gradient.

    The weights of mergers are not decayed, as in the original code: a mixture has no natural zero.
    """
    mergers = [module for module in learner.modules() if isinstance(module, Merger)]
    undecayed = {id(parameter) for merger in mergers for parameter in merger.parameters()}
    trainable = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in trainable if id(parameter) not in undecayed],
            "weight_decay": options.weight_decay,
        },
        {"params": [parameter for parameter in trainable if id(parameter) in undecayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "sgd":  # the fused form fails where a parameter has no gradient in the first step
        return SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in trainable)
    if options.optimizer == "adamw":
        return AdamW(groups, lr=options.lr, eps=options.adam_eps, fused=fused)
    return Adam(groups, lr=options.lr, eps=options.adam_eps, fused=fused)


WRAPPERS: Final = frozenset(
    {
        "_disable_dynamo.<locals>.inner",
        "_use_grad_for_differentiable.<locals>._use_grad",
        "Optimizer.profile_hook_step.<locals>.wrapper",
    }
)
"""PyTorch's wrappers around optimiser methods, by the qualified name of their code.

The first two import torch._dynamo, the front end of torch.compile, when they are called, whether anything is
compiled or not. The third runs hooks and the profiler. Every optimiser class adds its own.
"""


def without_wrappers(method: Callable[..., Any]) -> Any:
    """An optimiser method without `WRAPPERS`: importing torch._dynamo takes about a second and 160 MB.

    Unknown wrappers are kept: a version of PyTorch with other wrappers imports the compiler again, and
    nothing else changes.
    """
    wrapped = getattr(method, "__wrapped__", None)
    known = isinstance(method, FunctionType) and method.__code__.co_qualname in WRAPPERS
    return without_wrappers(wrapped) if wrapped is not None and known else method


class _Eager(torch.optim.Optimizer):
    """The methods that all optimisers below share. They compute the same bits as PyTorch's own classes."""

    add_param_group = without_wrappers(torch.optim.Optimizer.add_param_group)
    zero_grad = without_wrappers(torch.optim.Optimizer.zero_grad)


class Adam(_Eager, torch.optim.Adam):
    """`torch.optim.Adam` that does not import the compiler."""

    step = torch.no_grad()(without_wrappers(torch.optim.Adam.step))


class AdamW(_Eager, torch.optim.AdamW):
    """`torch.optim.AdamW` that does not import the compiler."""

    step = torch.no_grad()(without_wrappers(torch.optim.AdamW.step))


class SGD(_Eager, torch.optim.SGD):
    """`torch.optim.SGD` that does not import the compiler."""

    step = torch.no_grad()(without_wrappers(torch.optim.SGD.step))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """The state of each parameter by its index, without hyper-parameters, which the options have."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        index: optimizer.state[parameter]
        for index, parameter in enumerate(parameters)
        if parameter in optimizer.state
    }


def set_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Load what `optimizer_state` returned into a new optimiser of the same parameters.

    Fused kernels iterate over a parameter and its state in the order of memory, so a tensor of the
    parameter's shape gets its strides too: a file does not keep them.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state.items():
        parameter = parameters[index]
        optimizer.state[parameter] = {name: _like(parameter, value) for name, value in values.items()}


def _like(parameter: Tensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.ndim:
        return value  # a number of steps
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def rate(options: TrainOptions, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) out of `steps`, a pure function: nothing is restored on
    resume.
    """
    if options.schedule == "constant":
        return options.lr
    warmup = options.warmup * steps if options.schedule in ("one-cycle", "linear") else 0.0
    if step < warmup:
        return options.lr * ((step + 1) / math.ceil(warmup))
    if options.schedule == "linear":
        return options.lr * min(1.0, (steps - step) / max(1.0, steps - warmup))
    return options.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, steps - warmup)))


def count_trainable(module: nn.Module) -> int:
    """The number of scalars that require a gradient."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
