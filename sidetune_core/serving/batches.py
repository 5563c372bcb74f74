"""Batches of several tasks: the rows that go through a base together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.serving.learner import ServedLearner
from sidetune_core.serving.shared_base import SharedBatch, shared


@attrs.frozen(eq=False)
class Part:
    """Inputs of one task."""

    learner: ServedLearner
    task: str | None
    """Its name in the learner; None where the task is not known."""
    inputs: Inputs


def predict_parts(parts: Sequence[Part], concatenate: bool) -> list[Tensor]:
    """The output (B, ...) of each part, in float32; each base runs once on equal inputs.

    Args:
        parts: inputs of tasks.
        concatenate: the parts have different examples, which go through a base together; otherwise the same
            examples as their tasks preprocess them.
    """
    outputs: dict[int, Tensor] = {}
    for group in _groups(parts).values():
        for numbers in [group] if concatenate else _equal_parts(parts, group):
            outputs |= _predict_together({number: parts[number] for number in numbers}, concatenate)
    return [outputs[number] for number in range(len(parts))]


def _predict_together(parts: Mapping[int, Part], concatenate: bool) -> dict[int, Tensor]:
    """Outputs by number, of parts that are equal, or that are concatenated."""
    machine = next(iter(parts.values())).learner.machine
    if len(parts) == 1:
        ((number, part),) = parts.items()
        return {number: part.learner.predict(machine.move_inputs(part.inputs), part.task)}
    inputs = [part.inputs for part in parts.values()]
    batch = SharedBatch(machine.move_inputs(_concatenated(inputs if concatenate else inputs[:1])))
    outputs, first = {}, 0
    with shared(batch):
        for number, part in parts.items():
            rows = batch.inputs
            if concatenate:
                count = _count(part.inputs)
                rows, first = batch.inputs.rows(slice(first, first + count)), first + count
            outputs[number] = part.learner.predict(rows, part.task)
    return outputs


def _groups(parts: Sequence[Part]) -> dict[Hashable, list[int]]:
    """Numbers of the parts that can be concatenated: they have the same device, names, shapes and types."""
    groups: dict[Hashable, list[int]] = {}
    for index, part in enumerate(parts):
        shapes = tuple((name, tuple(value.shape[1:]), value.dtype) for name, value in part.inputs.items())
        key = (part.learner.machine, shapes, part.inputs.lengths is None)
        groups.setdefault(key, []).append(index)
    return groups


def _equal_parts(parts: Sequence[Part], numbers: Sequence[int]) -> list[list[int]]:
    """Numbers of parts, those with equal inputs together."""
    equal: list[list[int]] = []
    for number in numbers:
        inputs = parts[number].inputs
        others = (some for some in equal if _are_equal(parts[some[0]].inputs, inputs))
        if (some := next(others, None)) is not None:
            some.append(number)
        else:
            equal.append([number])
    return equal


def _are_equal(first: Inputs, second: Inputs) -> bool:
    if first is second:
        return True
    pairs = [(value, second[name]) for name, value in first.items()]
    if first.lengths is not None and second.lengths is not None:
        pairs.append((first.lengths, second.lengths))
    return all(torch.equal(one, other) for one, other in pairs)


def _concatenated(inputs: Sequence[Inputs]) -> Inputs:
    """One batch with ids 0, 1, …"""
    if len(inputs) == 1:
        return attrs.evolve(inputs[0], ids=torch.arange(_count(inputs[0])))
    tensors = {name: torch.cat([part[name] for part in inputs]) for name in inputs[0]}
    lengths = [part.lengths for part in inputs if part.lengths is not None]
    count = sum(map(_count, inputs))
    return Inputs(tensors, torch.arange(count), torch.cat(lengths) if lengths else None)


def _count(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))
