"""Probes: a few inputs of a task, kept to see later whether a learner still does the same with them, and what it reads to do so."""

from __future__ import annotations

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
"""Probes of a task."""

INPUT = "input."


class ProbeRecorder:
    """An `Predict` that keeps the first inputs that go through it, without their ids: a probe is always computed, never remembered."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.inputs: dict[str, Tensor] = {}

    def __call__(self, inputs: Inputs) -> Tensor:
        room = EXAMPLES - len(next(iter(self.inputs.values()), ()))
        if room:
            self._keep({name: value[:room].detach().cpu().clone() for name, value in inputs.items()})
        return self._predict(inputs)

    def _keep(self, rows: Mapping[str, Tensor]) -> None:
        if not self.inputs:
            self.inputs = dict(rows)
        elif all(value.shape[1:] == rows[name].shape[1:] for name, value in self.inputs.items()):
            self.inputs = {name: torch.cat([value, rows[name]]) for name, value in self.inputs.items()}


@attrs.frozen(eq=False)
class Stored:
    """Probes of a task as they are in their file."""

    inputs: Mapping[str, Tensor]
    output: Tensor
    """(B, ...) in float32, right after the task was learnt."""

    def write(self, path: Path) -> None:
        write_tensors(
            path, {"output": self.output, **{INPUT + name: value for name, value in self.inputs.items()}}
        )

    @classmethod
    def read(cls, path: Path) -> Stored:
        """Read what `write` wrote.

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
    """What a learner did with some probes."""

    output: Tensor
    read: frozenset[str]
    """Names of its parameters and buffers that were read."""


def replay(learner: nn.Module, predict: Predict, inputs: Mapping[str, Tensor], *names: object) -> Replay:
    """Send probes through a learner. Random numbers, if any are drawn, are drawn under a seed made of `names`."""
    reads = ReadTracker(dict(named_tensors(learner)))
    with seeded(0, "probes", *names), reads:
        output = predict(Inputs(dict(inputs)))
    return Replay(output.detach().cpu().clone(), frozenset(reads.names))


class ReadTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, notes which of some tensors PyTorch's operations are given, under whatever view, module or function, with or without
    gradient. A tensor that shares its memory with another is read with it."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()
        self._names_at: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            self._names_at.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
        self._names_at.pop(0, None)  # tensors without numbers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.names.update(self._names_at.get(leaf.untyped_storage().data_ptr(), ()))
        return func(*args, **(kwargs or {}))


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, those that are not saved included, under every name that it has."""
    return chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )


def same(before: Tensor, after: Tensor) -> bool:
    """Whether two tensors are the same bit for bit."""
    return tensor_digest("", before) == tensor_digest("", after)


def change(before: Tensor, after: Tensor) -> Change | None:
    """How far a tensor has moved; None where its shape is another."""
    if before.shape != after.shape:
        return None
    if not before.numel():
        return Change(0.0, 0.0)
    one, other = before.cpu().double(), after.cpu().double()
    absolute, scale = float((other - one).abs().max()), float(one.abs().max())
    return Change(absolute, absolute / scale if scale else float(absolute > 0))
