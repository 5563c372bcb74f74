"""The optimiser of one task, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sidetune_core.config.spec import TrainOptions
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import Merger


def make_optimizer(learner: Learner, options: TrainOptions) -> torch.optim.Optimizer:
    """A new optimiser over what requires a gradient; mergers are not decayed, as in the original: a mixture has no natural zero."""
    undecayed = {
        id(parameter)
        for module in learner.modules()
        if isinstance(module, Merger)
        for parameter in module.parameters()
    }
    moving = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in moving if id(one) not in undecayed], "weight_decay": options.weight_decay},
        {"params": [one for one in moving if id(one) in undecayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in moving)
    if (
        options.optimizer == "sgd"
    ):  # whose fused form fails where a parameter had no gradient in the first step
        return torch.optim.SGD(
            groups, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0
        )
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, eps=options.adam_eps, fused=fused)
    return torch.optim.Adam(groups, lr=options.lr, eps=options.adam_eps, fused=fused)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """What an optimiser of `make_optimizer` holds for each of its parameters, by number; the options make the rest anew."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return state


def set_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Give a new optimiser what another one of the same parameters held.

    Fused kernels walk a parameter and its state in the order of memory, so a tensor of the parameter's shape gets its strides as well:
    a file has lost those.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in state.items():
        parameter = parameters[number]
        optimizer.state[parameter] = {name: _beside(parameter, value) for name, value in values.items()}


def _beside(parameter: Tensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.ndim:
        return value  # a count of steps
    return (
        torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if value.shape == parameter.shape
        else value.to(parameter.device)
    )


def rate(options: TrainOptions, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) out of `steps`: a pure function, so that nothing has to be restored on resume."""
    if options.schedule == "constant":
        return options.lr
    climb = options.warmup * steps if options.schedule in ("one-cycle", "linear") else 0.0
    if step < climb:
        return options.lr * ((step + 1) / math.ceil(climb))
    if options.schedule == "linear":
        return options.lr * min(1.0, (steps - step) / max(1.0, steps - climb))
    return options.lr * 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1.0, steps - climb)))


def count_trainable(module: nn.Module) -> int:
    """How many numbers may move."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
