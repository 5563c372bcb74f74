"""A copy of the end of a base that reads the base's own weights, and trains only what is added to them.

What a copy does not train must not be stored for each task. So the parameters of a frozen layer are not
registered in the copy: its attributes are the parameter objects of the base. They move, and are restored, with
the base; `copy.deepcopy` and pickling of a learner keep them one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from sidetune_core.api import Base, Continuable, Continuation, InputShapes

from .parallel import Parallel, make_adapter, make_update

ORIGIN = "_fork_origin"


def adapted_copy(
    base: Continuable,
    tap: int,
    keep: Collection[int] | None,
    inputs: InputShapes,
    train: Literal["adapters", "lora", "norm"],
    rank: int,
) -> Continuation:
    """A copy whose parameters are those of its norms and of the layers added to the frozen ones.

    Args:
        base: to copy, which is left as it is.
        tap, keep: see `Continuable.continued`.
        inputs: shapes of the base's inputs.
        train: see `Fork`.
        rank: see `Fork`.
    """
    assert isinstance(base, Base)
    with _marked(base):
        copied = base.continued(tap, keep)
    called = _called_layers(copied, base, tap, inputs) if train != "norm" else []
    for module in copied.modules():
        origin = module.__dict__.pop(ORIGIN, None)
        if not is_norm(module):
            _freeze(module, origin.module if origin is not None else None)
    make = make_adapter if train == "adapters" else make_update
    for name in called:
        layer = copied.get_submodule(name)
        if (added := make(layer, rank)) is not None:
            parent, _, attribute = name.rpartition(".")
            setattr(copied.get_submodule(parent), attribute, Parallel(layer, added))
    return copied


def is_norm(module: nn.Module) -> bool:
    """Whether a layer normalises, by the name of its class: libraries have many of their own."""
    return "norm" in type(module).__name__.lower()


class _Origin:
    """The module that another one is a copy of. It stays the same object in copies of modules."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __deepcopy__(self, _: dict[int, object]) -> _Origin:
        return self


@contextmanager
def _marked(base: Base) -> Iterator[None]:
    """Let copies of the base's modules know what they are copies of, within a block."""
    modules = list(base.modules())
    for module in modules:
        module.__dict__[ORIGIN] = _Origin(module)
    try:
        yield
    finally:
        for module in modules:
            del module.__dict__[ORIGIN]


def _freeze(module: nn.Module, origin: nn.Module | None) -> None:
    """Put the base's parameters in place of those of a module itself.

    Where they are not to be found, since the module was not copied from one of the base's (as the containers
    of a graph of `torch.fx`), they become buffers: frozen, and stored with the side.
    """
    for name, parameter in list(module._parameters.items()):
        if parameter is None:
            continue
        delattr(module, name)
        own = origin._parameters.get(name) if origin is not None else None
        if own is not None:
            module.__dict__[name] = own
        else:
            module.register_buffer(name, parameter.detach())


def _called_layers(copied: Continuation, base: Base, tap: int, inputs: InputShapes) -> list[str]:
    """Names of the convolutions and linear layers that are called as modules, in a pass of a blank example.

    Others may read a layer's weights, as attention in PyTorch does; to replace that layer would change
    nothing.
    """
    called: dict[str, None] = {}
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.setdefault(name))
        for name, module in copied.named_modules()
        if type(module) in (nn.Conv2d, nn.Linear)
    ]
    device = next((weight.device for weight in copied.parameters()), None)
    blank = {name: torch.zeros(1, *shape, device=device) for name, shape in inputs.items()}
    try:
        with torch.no_grad():
            copied.eval()(torch.zeros(1, *base.tap_shapes[tap], device=device), blank)
    finally:
        for hook in hooks:
            hook.remove()
        copied.train(base.training)
    return [name for name, _ in copied.named_modules() if name in called]
