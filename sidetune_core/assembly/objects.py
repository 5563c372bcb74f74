"""The network that a run was given in Python: what is recorded of it, and whether another one is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sidetune_core.config.given import Objects, given_of, has_object, unwritten, with_objects
from sidetune_core.config.history import OBJECTS, UNWRITTEN
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.errors import OptionError, RunError, shorten
from sidetune_core.hashing import fingerprint


def describe_objects(resolved: ResolvedRun) -> dict[str, Any]:
    """What ``run.json`` has of the objects of a run; empty if it has none."""
    if not (line := unwritten(resolved)):
        return {}
    objects: dict[str, Any] = {}
    if (network := given_of(resolved, "base")) is not None:
        objects["base"] = describe_network(network)
    if (tasks := given_of(resolved, "env")) is not None:
        objects["env"] = {"tasks": [{"title": task.title, "class": type(task).__name__} for task in tasks]}
    return {UNWRITTEN: line, OBJECTS: objects}


def describe_network(network: nn.Module) -> dict[str, Any]:
    """A network in plain values: its class, names, types and shapes of its tensors, and digests of these with
    the classes of its modules (structure), and of its weights."""
    tensors = _tensors(network)
    state = {name: _outline(tensor) for name, tensor in tensors.items()}
    modules = [f"{name} {type(module).__qualname__}" for name, module in network.named_modules()]
    structure = "\n".join([*modules, *(f"{name} {outline}" for name, outline in state.items())])
    return {
        "class": f"{type(network).__module__}:{type(network).__qualname__}",
        "structure": hashlib.sha256(structure.encode()).hexdigest(),
        "weights": fingerprint(tensors),
        "state": state,
    }


def give_objects(
    resolved: ResolvedRun, about: Mapping[str, Any], objects: Objects, same_weights: bool
) -> ResolvedRun:
    """A run that is read from its folder, with the objects that are given for it.

    Args:
        resolved: the run.
        about: its ``run.json``.
        objects: the network, and the tasks; those of a run that was extended are given to `read_parts`.
        same_weights: the network needs to have the weights that the run began with; without this, they come
            from the checkpoint.

    Raises:
        OptionError: the run is not made of such an object.
        RunError: the network is another one.
    """
    given = with_objects(resolved, objects)
    recorded = about.get(OBJECTS)
    network = recorded.get("base") if isinstance(recorded, Mapping) else None
    if objects.base is not None and isinstance(network, Mapping):
        _check_network(network, objects.base, same_weights)
    return given


def require_network(resolved: ResolvedRun, call: str) -> None:
    """Check that the network of a run is given, if it needs one.

    Args:
        resolved: the run.
        call: what to write in Python, without the argument: ``sidetune_core.load('runs/1'``.

    Raises:
        OptionError: it is not.
    """
    if has_object(resolved, "base") and given_of(resolved, "base") is None:
        raise OptionError(
            f"the base of the run is a network that Python gave, and the run folder has its weights only: in "
            f"Python, {call}, base=network)"
        )


def require_tasks(resolved: ResolvedRun, call: str, argument: str = "tasks=[...]") -> None:
    """Check that the tasks of a run are given, if it needs them; see `require_network`.

    Raises:
        OptionError: they are not.
    """
    if has_object(resolved, "env") and given_of(resolved, "env") is None:
        network = ", base=network" if has_object(resolved, "base") else ""
        raise OptionError(
            "the tasks of the run were made in Python, and the run folder has no data: in Python, "
            f"{call}, {argument}{network})"
        )


def _check_network(recorded: Mapping[str, Any], network: nn.Module, same_weights: bool) -> None:
    now, title = describe_network(network), type(network).__name__
    if now["structure"] != recorded.get("structure"):
        raise RunError(
            f"base= is another network than that of the run ({recorded.get('class')}): "
            f"{_differences(recorded.get('state', {}), now['state'])}"
        )
    if same_weights and now["weights"] != recorded.get("weights"):
        raise RunError(
            f"base= has other weights than the network that the run began with ({title}): load the same "
            "weights into it. To use the run without training, sidetune_core.load takes them "
            "from its checkpoint"
        )


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In the words of `load_state_dict`."""
    missing = [name for name in before if name not in now]
    unexpected = [name for name in now if name not in before]
    other = [
        f"{name} {before[name]} → {now[name]}"
        for name in before
        if now.get(name, before[name]) != before[name]
    ]
    found = [("missing keys", missing), ("unexpected keys", unexpected), ("other shapes or types", other)]
    lines = [f"{len(names)} {title}: {shorten(names)}" for title, names in found if names]
    return "; ".join(lines) or "its tensors are the same, and its modules or their order are not"


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def _outline(tensor: Tensor) -> str:
    """``float32 64x3x7x7``"""
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape}"
