"""Plain attributes of modules: what PyTorch does not see, and what a checkpoint therefore loses."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

OWN = frozenset(vars(nn.Module()))
DEPTH = 3
"""Containers within containers that are searched."""


def unregistered(module: nn.Module) -> list[str]:
    """Modules and parameters that a module, or a module in it, holds in a list or dict of Python."""
    registered = {id(one) for one in (*module.modules(), *module.parameters())}
    return [
        f"{name} holds a {type(value).__name__} in a plain {_container(name, module)}: use "
        f"{'nn.ModuleList or nn.ModuleDict' if isinstance(value, nn.Module) else 'nn.ParameterList'}"
        for name, value in plain_values(module)
        if isinstance(value, nn.Module | nn.Parameter) and id(value) not in registered
    ]


def optimizers(module: nn.Module) -> list[str]:
    """Names of attributes that hold an optimiser."""
    return [name for name, value in plain_values(module) if isinstance(value, torch.optim.Optimizer)]


def registered_twice(module: nn.Module) -> list[str]:
    """Modules with weights that have two names, such as ``net and alias``."""
    names: dict[int, list[str]] = {}
    for name, one in module.named_modules(remove_duplicate=False):
        if any(True for _ in one.parameters()):
            names.setdefault(id(one), []).append(name)
    return [" and ".join(several) for several in names.values() if len(several) > 1]


@contextmanager
def watched_training(module: nn.Module) -> Iterator[list[str]]:
    """Within the block, note where plugins read ``module.training`` while it is not set."""
    cls, reads = type(module), list[str]()

    def read(self: nn.Module) -> bool:
        caller = sys._getframe(1)
        plugin = not str(caller.f_globals.get("__name__")).startswith(("torch.", "sidetune_core."))
        value: bool = vars(self)["training"]
        if plugin and not value:
            reads.append(f"{Path(caller.f_code.co_filename).name}, line {caller.f_lineno}")
        return value

    def write(self: nn.Module, value: bool) -> None:
        vars(self)["training"] = value

    members = {
        "training": property(read, write),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    module.__class__ = type(cls.__name__, (cls,), members)
    try:
        yield reads
    finally:
        module.__class__ = cls


def counts(module: nn.Module) -> dict[str, int]:
    """By name of an attribute: the number of tensors in it, in containers of any size."""
    found: dict[str, int] = {}
    for name, value in plain_values(module):
        if isinstance(value, Tensor):
            top = name.partition("[")[0]
            found[top] = found.get(top, 0) + 1
    return found


def plain_values(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Values in plain attributes by name, such as ``layers[0]``, in lists, tuples, sets and dicts too."""
    for prefix, one in module.named_modules():
        for key, value in vars(one).items():
            if key not in OWN and key != "cache":
                yield from _within(f"{prefix}.{key}" if prefix else key, value, DEPTH)


def _within(name: str, value: object, depth: int) -> Iterator[tuple[str, object]]:
    yield name, value
    if not depth:
        return
    if isinstance(value, Mapping) and not isinstance(value, nn.Module):
        for key, item in list(value.items()):
            yield from _within(f"{name}[{key!r}]", item, depth - 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield from _within(f"{name}[{index}]", item, depth - 1)


def _container(name: str, module: nn.Module) -> str:
    top = name.partition("[")[0]
    value = dict(plain_values(module)).get(top)
    return type(value).__name__ if "[" in name else "attribute"
