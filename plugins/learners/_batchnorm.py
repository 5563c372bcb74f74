"""BatchNorm layers with frozen statistics, or with a copy for each task."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sidetune_core.api import Task


def trainable_around_batch_norms(module: nn.Module, affine: bool) -> list[nn.Module | nn.Parameter]:
    """What to train of `module` so that its BatchNorm layers stay in eval mode.

    Submodules without BatchNorm are listed as modules, so that their dropout is in training mode; of a
    module that contains BatchNorm only its own parameters are listed. With `affine` the scales and shifts of
    the BatchNorm layers are among them.
    """
    if not any(isinstance(submodule, _BatchNorm) for submodule in module.modules()):
        return [module]
    if isinstance(module, _BatchNorm) and not affine:
        return []
    trainable: list[nn.Module | nn.Parameter] = [*module.parameters(recurse=False)]
    for child in module.children():
        trainable += trainable_around_batch_norms(child, affine)
    return trainable


class TaskNorms(nn.ModuleDict):
    """For each task a copy of a network's BatchNorm layers: scales, shifts and statistics."""

    def add_task(self, network: nn.Module, task: Task) -> nn.Module:
        """Copy the network's own layers for a new task."""
        self[task.id] = copy.deepcopy(nn.ModuleList(_batch_norms(network).values()))
        return self[task.id]

    @contextmanager
    def applied(self, network: nn.Module, task_id: str) -> Iterator[None]:
        """Replace the network's layers with a task's copies within a ``with`` block."""
        originals = _batch_norms(network)
        copies = self[task_id]
        assert isinstance(copies, nn.ModuleList)
        for name, norm in zip(originals, copies, strict=True):
            network.set_submodule(name, norm)
        try:
            yield
        finally:
            for name, norm in originals.items():
                network.set_submodule(name, norm)


def _batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """By name; a layer with two names occurs twice."""
    return {
        name: module
        for name, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm)
    }
