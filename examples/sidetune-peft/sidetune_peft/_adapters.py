"""The interface to peft: method configurations, and adapters inside a network."""

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

UNSUPPORTED = {"adalora", "osf", "poly", "shadow", "trainable_tokens", "xlora"}
"""Methods that need training-loop calls, keep state outside the state dict, or are for language models."""


def method_config(method: str, layers: str, rank: int | None, alpha: float | None) -> PeftConfig:
    """peft's configuration of a method.

    Args:
        method: peft's name for it, in lower case.
        layers: regular expression for the names of the layers with adapters.
        rank: rank of an adapter, for methods that have one.
        alpha: scale of an adapter, for methods that have one.

    Raises:
        OptionError: there is no such method, or it has no rank or alpha, or refuses the value.
    """
    tuners = {
        kind: cls
        for kind, cls in PEFT_TYPE_TO_TUNER_MAPPING.items()
        if issubclass(cls, BaseTuner) and not cls.uses_shared_state
    }
    known = {
        kind.value.lower(): PEFT_TYPE_TO_CONFIG_MAPPING[kind]
        for kind in tuners
        if kind.value.lower() not in UNSUPPORTED
    }
    if method not in known:
        raise OptionError(
            f"peft has no method '{method}' that is inserted layer by layer. "
            f"Choose one of: {', '.join(sorted(known))}"
        )
    fields = {field.name for field in dataclasses.fields(known[method])}
    values: dict[str, object] = {"target_modules": layers}
    for name, value, aliases in (("rank", rank, ("r",)), ("alpha", alpha, ("lora_alpha", "alpha"))):
        if value is not None:
            field = next((alias for alias in aliases if alias in fields), None)
            if field is None:
                raise OptionError(f"method '{method}' has no {name}; leave out --learner.{name}")
            values[field] = value
    if "feedforward_modules" in fields:
        values["feedforward_modules"] = []  # IA3 scales inputs of these and outputs of others
    try:
        return known[method](**values)
    except (TypeError, ValueError) as error:
        raise OptionError(f"peft refuses method '{method}' with these options: {error}") from error


def inject(config: PeftConfig, network: nn.Module, name: str, owner: str) -> list[nn.Parameter]:
    """Insert an adapter into a network, activate it, and return its trainable parameters.

    Args:
        config: see `method_config`.
        network: the network, changed in place.
        name: name of the new adapter.
        owner: the learner and method, for messages.

    Raises:
        FitError: the method does not support such layers, or changes the network's own tensors.
    """
    network.requires_grad_(False)
    before = {
        id(tensor): (tensor, tensor.detach().clone())
        for tensor in (*network.parameters(), *network.buffers())
    }
    try:
        # in a container, since peft takes an attribute `config` for a transformers configuration
        inject_adapter_in_model(copy.deepcopy(config), nn.ModuleDict({"network": network}), name)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise FitError(f"{owner} does not fit this base: {error}") from error
    set_adapter(network, name)
    after = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    if not all(key in after and torch.equal(tensor, copied) for key, (tensor, copied) in before.items()):
        raise FitError(
            f"{owner} changes the base's own weights, which earlier tasks use; choose another method"
        )
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trainable:
        raise FitError(f"{owner} has no trainable parameter in this base")
    return trainable


def activate(network: nn.Module, name: str) -> None:
    """Activate one of a network's adapters; unlike `set_adapter`, do not change what is trainable."""
    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    if all(layer.active_adapters == [name] for layer in layers):
        return
    trainable = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    set_adapter(network, name)
    for parameter, requires_grad in trainable:
        parameter.requires_grad_(requires_grad)
