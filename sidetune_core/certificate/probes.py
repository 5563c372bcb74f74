"""Probes: a few stored inputs of a task, replayed later to compare outputs and the tensors read."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sidetune_core.certificate.record import Change
from sidetune_core.hashing import tensor_digest
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.tasks import Predict
from sidetune_core.seeding import seeded
from sidetune_core.storage.weights import read_tensors, write_tensors

EXAMPLES = 8
"""Number of probes of a task."""

INPUT = "input."


class ProbeRecorder:
    """A `Predict` that records its first `EXAMPLES` inputs, without ids, so that no cache serves a probe."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.inputs: dict[str, Tensor] = {}

    def __call__(self, inputs: Inputs) -> Tensor:
        missing = EXAMPLES - len(next(iter(self.inputs.values()), ()))
        if missing:
            self._record({name: value[:missing].detach().cpu().clone() for name, value in inputs.items()})
        return self._predict(inputs)

    def _record(self, inputs: Mapping[str, Tensor]) -> None:
        if not self.inputs:
            self.inputs = dict(inputs)
        elif all(value.shape[1:] == inputs[name].shape[1:] for name, value in self.inputs.items()):
            self.inputs = {name: torch.cat([value, inputs[name]]) for name, value in self.inputs.items()}


@attrs.frozen(eq=False)
class Stored:
    """The probes of a task, as stored in ``probes/TASK.safetensors``."""

    inputs: Mapping[str, Tensor]
    output: Tensor
    """(B, ...) in float32, right after the task was trained."""

    def write(self, path: Path) -> None:
        inputs = {INPUT + name: value for name, value in self.inputs.items()}
        write_tensors(path, {"output": self.output, **inputs})

    @classmethod
    def read(cls, path: Path) -> Stored:
        """The probes in a file that `write` made.

        Raises:
            WeightsError: the file is missing or damaged.
        """
        tensors = read_tensors(path)
        inputs = {
            name.removeprefix(INPUT): value for name, value in tensors.items() if name.startswith(INPUT)
        }
        return cls(inputs, tensors["output"])


@attrs.frozen(eq=False)
class Replay:
    """A learner's outputs for probes, and the tensors it read to compute them."""

    output: Tensor
    read: frozenset[str]
    """Names of parameters and buffers."""


def replay(learner: nn.Module, predict: Predict, inputs: Mapping[str, Tensor], *names: object) -> Replay:
    """Pass probes through a learner, with random numbers seeded by `names`."""
    tracker = CompilerReadTracker if "torch._dynamo" in sys.modules else ReadTracker
    reads = tracker(dict(named_tensors(learner)))
    with seeded(0, "probes", *names), reads:
        output = predict(Inputs(dict(inputs)))
    return Replay(output.detach().cpu().clone(), frozenset(reads.names))


class _Reads:
    """The methods of `ReadTracker`.

    They are apart because PyTorch wraps ``__torch_dispatch__`` of a class that defines it itself, to keep
    torch.compile out of it, and the wrapper imports the compiler (about a second).
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._names_at: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            self._names_at.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
        self._names_at.pop(0, None)  # empty tensors

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.names.update(self._names_at.get(leaf.untyped_storage().data_ptr(), ()))
        return func(*args, **(kwargs or {}))


class ReadTracker(_Reads, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, records in `names` which of the tensors PyTorch's operations receive.

    Views, modules, functional calls and calls without gradient all count. Tensors that share memory are read
    together.
    """


class CompilerReadTracker(ReadTracker):  # type: ignore[no-untyped-call]
    """`ReadTracker` in PyTorch's wrapper, for processes that have imported the compiler."""

    __torch_dispatch__ = _Reads.__torch_dispatch__


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, including non-persistent ones, under each of its names."""
    return chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )


def same(before: Tensor, after: Tensor) -> bool:
    """Whether two tensors are bit-identical."""
    return tensor_digest("", before) == tensor_digest("", after)


def change(before: Tensor, after: Tensor) -> Change | None:
    """The largest difference between two tensors; None where their shapes differ."""
    if before.shape != after.shape:
        return None
    if not before.numel():
        return Change(0.0, 0.0)
    old, new = before.cpu().double(), after.cpu().double()
    absolute, scale = float((new - old).abs().max()), float(old.abs().max())
    return Change(absolute, absolute / scale if scale else float(absolute > 0))
