"""What a module calls: its submodules and hooks, to notice what was added after it was built."""

from __future__ import annotations

from torch import nn
from torch.fx import GraphModule
from torch.nn.modules import module as hooked

Structure = frozenset[tuple[str | int | type, ...]]


def structure(module: nn.Module) -> Structure:
    """Names and classes of a module's submodules, ids of their forward hooks, and names of those with a
    `forward` of their own.
    """
    parts: set[tuple[str | int | type, ...]] = set()
    for name, child in module.named_modules():
        parts.add((name, _written_class(child)))
        parts.update((number,) for number in hook_ids(child))
        if has_own_forward(child):
            parts.add((name, "forward"))
    return frozenset(parts)


def _written_class(module: nn.Module) -> type:
    """The class of a module; of a graph, each copy of which has its own class, `torch.fx.GraphModule`."""
    return GraphModule if isinstance(module, GraphModule) else type(module)


def hook_ids(module: nn.Module) -> list[int]:
    """Ids of the forward and forward pre-hooks of a module itself, unique in a process."""
    return [*module._forward_hooks, *module._forward_pre_hooks]


def has_own_forward(module: nn.Module) -> bool:
    """Whether `forward` was replaced on the object."""
    return "forward" in vars(module)


def has_global_hooks() -> bool:
    """Whether there are forward hooks on all modules of the process."""
    return bool(hooked._global_forward_hooks or hooked._global_forward_pre_hooks)


def is_as_built(module: nn.Module, built: Structure | None) -> bool:
    """Whether nothing was added since `built`; without it, whether there are no hooks, no replaced `forward`
    and no parametrisations.
    """
    if built is not None:
        return structure(module) <= built
    return not any(
        hook_ids(child) or has_own_forward(child) or "parametrizations" in child._modules
        for child in module.modules()
    )
