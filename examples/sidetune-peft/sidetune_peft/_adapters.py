"""What is asked of peft: a configuration, adapters inside a network, and which of them is in use."""

from __future__ import annotations

import copy
import dataclasses

import torch
from peft import PeftConfig
from peft.functional import inject_adapter_in_model, set_adapter
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from sidetune_core.api import FitError, OptionError

UNFIT = {"adalora", "osf", "poly", "shadow", "trainable_tokens", "xlora"}
"""Methods that want more of a training loop than gradients, keep state that is in no state dict, or are for language models alone."""


def method_config(method: str, layers: str, rank: int | None, alpha: float | None) -> PeftConfig:
    """peft's configuration of a method.

    Args:
        method: peft's name for it, in lower case.
        layers: regular expression that the names of the layers with adapters match.
        rank: for methods that have one.
        alpha: for methods that have one.

    Raises:
        OptionError: there is no such method, or it has no rank or alpha or not this one.
    """
    tuners = {
        kind: cls
        for kind, cls in PEFT_TYPE_TO_TUNER_MAPPING.items()
        if issubclass(cls, BaseTuner) and not cls.uses_shared_state
    }
    known = {
        kind.value.lower(): PEFT_TYPE_TO_CONFIG_MAPPING[kind]
        for kind in tuners
        if kind.value.lower() not in UNFIT
    }
    if method not in known:
        raise OptionError(
            f"peft has no method '{method}' that is put into layers one by one. It has: {', '.join(sorted(known))}"
        )
    fields = {field.name for field in dataclasses.fields(known[method])}
    values: dict[str, object] = {"target_modules": layers}
    for name, value, theirs in (("rank", rank, ("r",)), ("alpha", alpha, ("lora_alpha", "alpha"))):
        if value is not None:
            own = next((field for field in theirs if field in fields), None)
            if own is None:
                raise OptionError(f"method '{method}' has no {name}; leave out --learner.{name}")
            values[own] = value
    if "feedforward_modules" in fields:
        values["feedforward_modules"] = []  # IA3 scales inputs of these and outputs of others
    try:
        return known[method](**values)
    except (TypeError, ValueError) as error:
        raise OptionError(f"peft refuses method '{method}' with these options: {error}") from error


def inject(config: PeftConfig, network: nn.Module, name: str, owner: str) -> list[nn.Parameter]:
    """Put an adapter into a network, use it, and return what it has to train. The network's own tensors are not touched.

    Args:
        config: see `method_config`.
        network: what is changed in place.
        name: of the new adapter.
        owner: for messages.

    Raises:
        FitError: the method takes no such layers, or has no adapters that can be kept apart from the network.
    """
    network.requires_grad_(False)
    before = {
        id(tensor): (tensor, tensor.detach().clone())
        for tensor in (*network.parameters(), *network.buffers())
    }
    try:
        # a container, since peft takes an attribute `config` of what it is given for a configuration of transformers
        inject_adapter_in_model(copy.deepcopy(config), nn.ModuleDict({"network": network}), name)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise FitError(f"{owner} does not fit this base: {error}") from error
    set_adapter(network, name)
    after = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    if not all(key in after and torch.equal(tensor, copied) for key, (tensor, copied) in before.items()):
        raise FitError(
            f"{owner} changes the base's own weights, and earlier tasks need those; choose another method"
        )
    moving = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not moving:
        raise FitError(f"{owner} has nothing to train in this base")
    return moving


def activate(network: nn.Module, name: str) -> None:
    """Let a network use one of its adapters; what may be trained stays as it is, which `set_adapter` would change."""
    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    if all(layer.active_adapters == [name] for layer in layers):
        return
    moving = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    set_adapter(network, name)
    for parameter, moves in moving:
        parameter.requires_grad_(moves)
