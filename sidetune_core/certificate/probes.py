"""Probes: a few stored inputs of a task, replayed later to compare outputs and the tensors read."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sidetune_core.certificate.record import Change
from sidetune_core.certificate.verdicts import BATCH, EVALUATION_TRAINS, OUTSIDE, RANDOM
from sidetune_core.errors import WeightsError
from sidetune_core.hashing import tensor_digest
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.outputs import Outputs, broken_rows
from sidetune_core.interfaces.tasks import Predict
from sidetune_core.seeding import seeded
from sidetune_core.storage.weights import read_tensors, write_tensors

EXAMPLES = 8
"""Number of probes of a task."""

INPUT, CONTEXT = "input.", "context."
LENGTHS, OUTPUT, EVALUATED = "lengths", "output", "evaluated"
"""Keys of a file of probes, next to the inputs."""

ROUNDING = {"fp32": 1e-3, "bf16": 0.05}
"""Largest relative difference of outputs that counts as rounding, by precision: other batch sizes, machines,
libraries and numbers of threads add in another order. Convolutions on a GPU round to 10 bits in fp32 too."""


@attrs.define(eq=False)
class Recorded:
    """The first examples of an evaluation, as the learner got them, and what it returned."""

    inputs: dict[str, Tensor] = attrs.field(factory=dict)
    lengths: Tensor | None = None
    """See `Inputs.lengths`."""
    output: Tensor | None = None
    """(B, ...) in float32, computed in the batches of the evaluation."""
    reads: list[str] = attrs.field(factory=list)
    """Names of the tensors that the whole evaluation read, not only for these examples; empty if its reads
    were not tracked."""
    context: dict[str, Tensor] = attrs.field(factory=dict)
    """See `Inputs.context`."""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()), ()))

    def add(self, inputs: Inputs, output: Tensor) -> None:
        """Append examples that have the shapes of those before; others are left out."""
        new, context = dict(inputs), dict(inputs.context)
        if self.output is None:
            self.inputs, self.lengths, self.context, self.output = new, inputs.lengths, context, output
        elif (
            _fits(self.inputs, new)
            and _fits(self.context, context)
            and _fits({"": self.output}, {"": output})
        ):
            self.inputs = {name: torch.cat([value, new[name]]) for name, value in self.inputs.items()}
            self.context = {name: torch.cat([value, context[name]]) for name, value in self.context.items()}
            self.output = torch.cat([self.output, output])
            if self.lengths is not None and inputs.lengths is not None:
                self.lengths = torch.cat([self.lengths, inputs.lengths])

    def as_inputs(self) -> Inputs:
        """What the learner gets when they are replayed."""
        return Inputs(self.inputs, lengths=self.lengths, context=self.context)


class ProbeRecorder:
    """A `Predict` that records its first examples, without ids, so that no cache serves a probe.

    Args:
        predict: the learner's prediction.
        reads: tracks the tensors that it reads; None to track none.
    """

    def __init__(self, predict: Predict, reads: ReadTracker | None = None) -> None:
        self.predict = predict
        """Without recording, to replay what was recorded."""
        self.recorded = Recorded()
        self._reads = reads

    def __call__(self, inputs: Inputs) -> Tensor:
        missing = EXAMPLES - len(self.recorded)
        kept = _first(inputs, missing) if missing else None
        output = self._tracked(inputs)
        if kept is not None:
            self.recorded.add(kept, _copied(output[:missing]))
        return output

    def _tracked(self, inputs: Inputs) -> Tensor:
        if self._reads is None:
            return self.predict(inputs)
        with self._reads:
            output = self.predict(inputs)
        if len(self._reads.names) > len(self.recorded.reads):
            self.recorded.reads = sorted(self._reads.names)
        return output


@attrs.frozen(eq=False)
class Stored:
    """The probes of a task, as stored in ``probes/TASK.safetensors``."""

    inputs: Mapping[str, Tensor]
    output: Tensor
    """(B, ...) in float32, right after the task was trained."""
    lengths: Tensor | None = None
    """See `Inputs.lengths`."""
    evaluated: Tensor | None = None
    """The same outputs as the first evaluation had them, in its own batches; None in runs of earlier
    versions."""
    context: Mapping[str, Tensor] = attrs.field(factory=dict)
    """See `Inputs.context`."""

    def write(self, path: Path) -> None:
        tensors = {INPUT + name: value for name, value in self.inputs.items()}
        tensors |= {CONTEXT + name: value for name, value in self.context.items()}
        tensors |= {OUTPUT: self.output}
        for name, value in ((LENGTHS, self.lengths), (EVALUATED, self.evaluated)):
            if value is not None:
                tensors[name] = value
        write_tensors(path, tensors)

    @classmethod
    def read(cls, path: Path) -> Stored:
        """The probes in a file that `write` made.

        Raises:
            WeightsError: the file is missing or damaged.
        """
        tensors = read_tensors(path)
        inputs, context = _named(tensors, INPUT), _named(tensors, CONTEXT)
        if OUTPUT not in tensors or not inputs:
            raise WeightsError(f"{path} has no probes: it lacks inputs, or the tensor '{OUTPUT}'")
        return cls(inputs, tensors[OUTPUT], tensors.get(LENGTHS), tensors.get(EVALUATED), context)

    def as_inputs(self) -> Inputs:
        """What the learner gets."""
        return Inputs(dict(self.inputs), lengths=self.lengths, context=self.context)


@attrs.frozen(eq=False)
class Replay:
    """A learner's outputs for probes, and the tensors it read to compute them."""

    output: Tensor
    read: frozenset[str]
    """Names of parameters and buffers."""
    cause: str = ""
    """Why other replays of the same probes have other outputs; empty where they agree."""


def replay(
    learner: nn.Module,
    predict: Predict,
    inputs: Inputs,
    rounding: float,
    *names: object,
    names_at: Mapping[int, Sequence[str]] | None = None,
) -> Replay:
    """Pass probes through a learner: at once, with another seed, and the last half of them in reverse order.

    Args:
        learner: whose reads are tracked.
        predict: its prediction for the probes' task.
        inputs: the probes.
        rounding: the largest relative difference between batch sizes that is no difference.
        names: seed the random numbers.
        names_at: names of the learner's tensors by address of their storage, if they are known; it is then
            not noticed whether a forward pass changes one.
    """
    before = _versions(learner) if names_at is None else {}
    reads = track_reads(learner, names_at)
    with seeded(0, "probes", *names), reads:
        output = _copied(predict(inputs))
    cause = _irreproducible(predict, inputs, output, rounding, names) if finite(output) else ""
    if names_at is None and _versions(learner) != before:
        cause = EVALUATION_TRAINS
    return Replay(output, frozenset(reads.names), cause)


def _irreproducible(
    predict: Predict, inputs: Inputs, output: Tensor, rounding: float, names: Sequence[object]
) -> str:
    """Why outputs for probes differ between replays; empty if they do not."""
    with seeded(1, "probes", *names):
        reseeded = _copied(predict(inputs))
    if not same(output, reseeded):
        with seeded(0, "probes", *names):
            return RANDOM if same(output, _copied(predict(inputs))) else OUTSIDE
    half = torch.arange(len(output) - 1, -1, -1)[: -(-len(output) // 2)]
    with seeded(0, "probes", *names):
        rearranged = _copied(predict(inputs.rows(half)))
    return "" if agree(output[half], rearranged, rounding) else BATCH


def _versions(module: nn.Module) -> dict[str, tuple[int, int]]:
    """What changes when a tensor is replaced, or changed in place."""
    return {name: (id(tensor), tensor._version) for name, tensor in named_tensors(module)}


def agree(first: Tensor, second: Tensor, rounding: float) -> bool:
    """Whether outputs differ by rounding only."""
    apart = change(first, second)
    return same(first, second) or (apart is not None and apart.relative <= rounding)


def finite(output: Tensor) -> bool:
    """Whether outputs (B, ...) are numbers, apart from masked classes (see `broken_rows`)."""
    return not broken_rows(output, Outputs()).any()


class _Reads:
    """The methods of `ReadTracker`.

    They are apart because PyTorch wraps ``__torch_dispatch__`` of a class that defines it itself, to keep
    torch.compile out of it, and the wrapper imports the compiler (about a second).
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], names_at: Mapping[int, Sequence[str]] | None = None
    ) -> None:
        super().__init__()
        self.names: set[str] = set()
        if names_at is None:
            found: dict[int, list[str]] = {}
            for name, tensor in tensors.items():
                found.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
            names_at = found
        self._names_at = names_at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and (address := leaf.untyped_storage().data_ptr()):  # 0 if empty
                self.names.update(self._names_at.get(address, ()))
        return func(*args, **(kwargs or {}))


class ReadTracker(_Reads, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, records in `names` which of the tensors PyTorch's operations receive.

    Views, modules, functional calls and calls without gradient all count. Tensors that share memory are read
    together.
    """


class CompilerReadTracker(ReadTracker):  # type: ignore[no-untyped-call]
    """`ReadTracker` in PyTorch's wrapper, for processes that have imported the compiler."""

    __torch_dispatch__ = _Reads.__torch_dispatch__


def track_reads(module: nn.Module, names_at: Mapping[int, Sequence[str]] | None = None) -> ReadTracker:
    """A tracker of all parameters and buffers of a module.

    Args:
        module: whose reads are tracked.
        names_at: names of its tensors by address of their storage, if they are known.
    """
    tracker = CompilerReadTracker if "torch._dynamo" in sys.modules else ReadTracker
    return tracker(dict(named_tensors(module)) if names_at is None else {}, names_at)


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, including non-persistent ones, under each of its names."""
    return chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )


def same(before: Tensor, after: Tensor) -> bool:
    """Whether two tensors are bit-identical."""
    return tensor_digest("", before) == tensor_digest("", after)


def change(before: Tensor, after: Tensor) -> Change | None:
    """The largest difference between two tensors; None where their shapes differ or it is not finite."""
    if before.shape != after.shape:
        return None
    if not before.numel():
        return Change(0.0, 0.0)
    old, new = before.cpu().double(), after.cpu().double()
    apart = torch.where(old == new, 0.0, (new - old).abs())  # -inf is equal to -inf
    absolute, scale = float(apart.max()), float(old.nan_to_num(0, 0, 0).abs().max())
    if not math.isfinite(absolute):
        return None
    return Change(absolute, absolute / scale if scale else float(absolute > 0))


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()


def _first(inputs: Inputs, count: int) -> Inputs:
    """A copy of the first examples of a batch."""
    rows = inputs.rows(slice(count))
    lengths = None if rows.lengths is None else _copied(rows.lengths)
    context = {name: _copied(value) for name, value in rows.context.items()}
    return Inputs({name: _copied(value) for name, value in rows.items()}, lengths=lengths, context=context)


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names have a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _fits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether tensors (B, ...) can be concatenated."""
    return first.keys() == second.keys() and all(
        value.shape[1:] == second[name].shape[1:] for name, value in first.items()
    )
