"""Checks of what a model is given: raw examples, and tensors for a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.errors import InputError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import TaskHandler
from sidetune_core.interfaces.inputs import Inputs


def split(handler: TaskHandler, inputs: Any) -> tuple[list[Any], bool]:
    """Raw examples, and whether they were given as several.

    Raises:
        InputError: there are none, or the inputs of a mapping differ in number.
    """
    if not handler.is_batch(inputs):
        return [inputs], False
    if isinstance(inputs, Mapping):
        counts = {name: len(values) for name, values in inputs.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"the inputs have different numbers of examples: {counts}")
        count = next(iter(counts.values()), 0)
        examples = [{name: values[row] for name, values in inputs.items()} for row in range(count)]
    else:
        examples = list(inputs)
    if not examples:
        raise InputError("there are no examples to predict")
    return examples, True


def as_inputs(card: TaskCard, inputs: Mapping[str, Tensor] | Tensor) -> Inputs:
    """Checked inputs without ids, so that no cache serves them."""
    if isinstance(inputs, Tensor):
        if len(card.inputs) != 1:
            raise InputError(
                f"task '{card.id}' has several inputs: give them by name: {', '.join(card.inputs)}"
            )
        inputs = dict.fromkeys(card.inputs, inputs)
    if not isinstance(inputs, Mapping):
        raise InputError(f"task '{card.id}' takes tensors by name; got a {type(inputs).__name__}")
    given = inputs if isinstance(inputs, Inputs) else Inputs(inputs)
    prepared = Inputs(dict(inputs), lengths=given.lengths, context=given.context)
    check_shapes(card, prepared)
    return attrs.evolve(prepared, tensors={name: _as_float32(name, prepared[name]) for name in prepared})


def _as_float32(name: str, value: Tensor) -> Tensor:
    """Floats in the precision of networks; tokens and other integers as they are."""
    if value.dtype == torch.uint8 and value.ndim == 4:
        raise InputError(
            f"input '{name}' has images of bytes, which are not preprocessed: divide by 255, or use predict()"
        )
    if not value.is_floating_point():
        return value
    if not bool(value.isfinite().all()):
        raise InputError(f"input '{name}' has values that are NaN or infinite")
    return value.float()


def check_shapes(card: TaskCard, inputs: Inputs) -> None:
    """Check that inputs are a batch of the shapes of a card, the first axis of which may be shorter for
    sequences with lengths.
    """
    if inputs.keys() != card.inputs.keys():
        raise InputError(
            f"task '{card.id}' has the inputs {', '.join(card.inputs)}; got {', '.join(inputs) or 'none'}"
        )
    counts = set()
    for name, shape in card.inputs.items():
        value = inputs[name]
        given = tuple(value.shape) if isinstance(value, Tensor) else None
        if given is None or len(given) != len(shape) + 1 or not _fits(given[1:], shape, inputs.lengths):
            raise InputError(
                f"input '{name}' of task '{card.id}' has shape {given or type(value).__name__}, expected "
                f"(B, {', '.join(map(str, shape))})"
            )
        counts.add(given[0])
    if len(counts) > 1 or 0 in counts:
        raise InputError(f"task '{card.id}': inputs have {' and '.join(map(str, sorted(counts)))} examples")


def _fits(given: Sequence[int], shape: Sequence[int], lengths: Tensor | None) -> bool:
    if lengths is None or not shape:
        return tuple(given) == tuple(shape)
    return given[0] <= shape[0] and tuple(given[1:]) == tuple(shape[1:])
