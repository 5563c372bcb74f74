"""The optimiser of a task and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import FunctionType
from typing import Any, Final

import torch
from torch import Tensor, nn

from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.errors import PluginError
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import Merger
from sidetune_core.interfaces.training import ParamGroup, Trainable


def make_optimizer(
    learner: Learner,
    options: TrainOptions,
    trainable: Trainable = (),
    parameters: Sequence[nn.Parameter] | None = None,
    undecayed: Collection[int] | None = None,
) -> torch.optim.Optimizer | None:
    """A new optimiser over the parameters that require a gradient; None if there are none.

    Each of its groups has an `lr_scale`, that of the `ParamGroup` s in `trainable`. The weights of mergers
    are not decayed unless their group says so, as in the original code: a mixture has no natural zero.

    Args:
        learner: that is trained.
        options: of training.
        trainable: what `Learner.start` returned.
        parameters: those of the learner that require a gradient, in order; None to look for them.
        undecayed: ids of those of mergers; None to look for them.

    Raises:
        PluginError: a parameter is in two groups with other settings.
    """
    if parameters is None:
        parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    if undecayed is None:
        mergers = [module for module in learner.modules() if isinstance(module, Merger)]
        undecayed = {id(parameter) for merger in mergers for parameter in merger.parameters()}
    groups = _groups(type(learner).__name__, options, trainable, parameters, undecayed)
    if not groups:
        return None
    if options.optimizer == "sgd":  # the fused form fails where a parameter has no gradient in the first step
        return SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0)
    fused = all(parameter.device.type in ("cpu", "cuda") for group in groups for parameter in group["params"])
    if options.optimizer == "adamw":
        return AdamW(groups, lr=options.lr, eps=options.adam_eps, fused=fused)
    return Adam(groups, lr=options.lr, eps=options.adam_eps, fused=fused)


def _groups(
    owner: str,
    options: TrainOptions,
    trainable: Trainable,
    parameters: Sequence[nn.Parameter],
    undecayed: Collection[int],
) -> list[dict[str, Any]]:
    """Parameter groups in the order of the learner's parameters, those with default settings first."""
    chosen: dict[int, ParamGroup] = {}
    for group in trainable:
        if isinstance(group, ParamGroup):
            for parameter in _parameters(group):
                other = chosen.setdefault(id(parameter), group)
                if (other.lr_scale, other.weight_decay) != (group.lr_scale, group.weight_decay):
                    raise PluginError(f"{owner} puts a parameter in two ParamGroups with other settings")
    settings = [(1.0, options.weight_decay, False), (1.0, 0.0, True)]
    grouped: dict[tuple[float, float, bool], list[nn.Parameter]] = {key: [] for key in settings}
    for parameter in parameters:
        in_merger = id(parameter) in undecayed
        decay = 0.0 if in_merger else options.weight_decay
        scale = 1.0
        if (own := chosen.get(id(parameter))) is not None:
            scale, decay = own.lr_scale, decay if own.weight_decay is None else own.weight_decay
        grouped.setdefault((scale, decay, in_merger), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (scale, decay, _), parameters in grouped.items()
        if parameters
    ]


def _parameters(group: ParamGroup) -> list[nn.Parameter]:
    return [
        parameter
        for member in group.members
        for parameter in (member.parameters() if isinstance(member, nn.Module) else [member])
    ]


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
