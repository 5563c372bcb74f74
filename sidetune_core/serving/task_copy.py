"""A copy of a learner for one task: without the networks of other tasks, and such that it can be pickled."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from sidetune_core.certificate.probes import named_tensors, track_reads
from sidetune_core.errors import FitError
from sidetune_core.interfaces.learner import Learner

Compute = Callable[[Learner], list[Tensor]]
"""The outputs of a learner for a few examples of the task."""


def copy_for_task(learner: Learner, task: str, tasks: Sequence[str], compute: Compute) -> Learner:
    """A copy of a learner with the same outputs for a task, and without what only other tasks use.

    Left out are entries of other tasks and parts of the learner that `compute` does not read, and plain
    attributes that cannot be pickled, such as factories of components. If the outputs are not the same
    without them, they are kept.

    Args:
        learner: in eval mode.
        task: that the copy is for.
        tasks: of the learner.
        compute: what is to stay the same.

    Raises:
        FitError: a copy computes something else.
    """
    with track_reads(learner) as reads:
        expected = compute(learner)
    unused = list(_unused(learner, set(tasks) - {task}, reads.names))
    small = _copy(learner, unused)
    if not _computes(small, compute, expected):
        small = _copy(learner)
        if not _computes(small, compute, expected):
            raise FitError(f"a copy of {type(learner).__name__} has other outputs for task '{task}'")
    _drop_unpicklable(small, compute, expected)
    return small


class Unused(nn.Module):
    """In place of the network of another task."""

    def forward(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError("this network has one task only; other tasks have their own (Model.module)")


class Unpicklable:
    """In place of an attribute that cannot be pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(f"'{self.name}' is for training only, and is not part of a network of one task")


def _copy(learner: Learner, unused: Sequence[nn.Module] = ()) -> Learner:
    """A frozen copy; networks of torchvision are in training mode after `copy.deepcopy`."""
    copied = copy.deepcopy(learner, {id(module): Unused() for module in unused})
    return copied.eval().requires_grad_(False)


def _unused(learner: Learner, others: set[str], read: set[str]) -> Iterator[nn.Module]:
    """The outermost modules that are not read: entries of other tasks, and children of the learner."""
    found: list[str] = []
    for name, module in learner.named_modules():
        is_candidate = name and ("." not in name or name.rpartition(".")[2] in others)
        if not is_candidate or any(name.startswith(f"{outer}.") for outer in found):
            continue
        tensors = [f"{name}.{inner}" for inner, _ in named_tensors(module)]
        if tensors and not read.intersection(tensors):
            found.append(name)
            yield module


def _computes(learner: Learner, compute: Compute, expected: Sequence[Tensor]) -> bool:
    """Whether a learner has the expected outputs, bit for bit."""
    try:
        outputs = compute(learner)
    except Exception:  # whatever code of a plugin raises that misses a module
        return False
    return all(torch.equal(one, other) for one, other in zip(outputs, expected, strict=True))


def _drop_unpicklable(learner: Learner, compute: Compute, expected: Sequence[Tensor]) -> None:
    """Replace attributes that cannot be pickled, if nothing needs them in a forward pass."""
    internal = set(vars(nn.Module()))
    dropped: list[tuple[nn.Module, str, Any]] = []
    for module in learner.modules():
        for name, value in list(vars(module).items()):
            if name not in internal and not _is_picklable(value):
                dropped.append((module, name, value))
                module.__dict__[name] = Unpicklable(name)
    if dropped and not _computes(learner, compute, expected):
        for module, name, value in dropped:
            module.__dict__[name] = value


def _is_picklable(value: object) -> bool:
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError):
        return False
    return True
