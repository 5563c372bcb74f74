"""Batch norms that keep their statistics, or that every task has copies of."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sidetune_core.api import Task


def all_but_batch_norms(module: nn.Module, affine: bool) -> list[nn.Module | nn.Parameter]:
    """What has to move for `module` to be trained while its batch norms stay in eval mode.

    Parts without a batch norm come whole, and so are in training mode (dropout); of a module around a batch norm only the parameters
    of its own come, bare. The batch norms' scales and shifts are among them if `affine`.
    """
    if not any(isinstance(one, _BatchNorm) for one in module.modules()):
        return [module]
    if isinstance(module, _BatchNorm) and not affine:
        return []
    inner = [thing for child in module.children() for thing in all_but_batch_norms(child, affine)]
    return [*module.parameters(recurse=False), *inner]


class TaskNorms(nn.ModuleDict):
    """A copy for each task of every batch norm of a network, scales, shifts and statistics; the network's own stay as they are."""

    def start(self, network: nn.Module, task: Task) -> nn.Module:
        """Copy the network's own for a new task."""
        self[task.id] = copy.deepcopy(nn.ModuleList(_batch_norms(network).values()))
        return self[task.id]

    @contextmanager
    def inside(self, network: nn.Module, task_id: str) -> Iterator[None]:
        """Let the network use a task's copies for a block."""
        own = _batch_norms(network)
        copies = self[task_id]
        assert isinstance(copies, nn.ModuleList)
        for name, norm in zip(own, copies, strict=True):
            network.set_submodule(name, norm)
        try:
            yield
        finally:
            for name, norm in own.items():
                network.set_submodule(name, norm)


def _batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """By name; one that has two names comes twice."""
    return {
        name: module
        for name, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm)
    }
