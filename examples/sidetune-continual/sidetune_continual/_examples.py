"""Stored examples, as columns of a `BufferDict`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sidetune_core.api import Batch, BufferDict, Inputs, InputShapes

Columns = Mapping[str, Tensor]
"""Examples by column, tensors (n, ...) of one length: ``id``, ``target``, and ``input.`` with the name of
each input.
"""

INPUT = "input."


def first_distinct(batches: Iterator[Batch], count: int, shapes: InputShapes) -> dict[str, Tensor]:
    """The columns of the first `count` distinct examples; of fewer if a batch repeats all."""
    seen: set[int] = set()
    parts: list[dict[str, Tensor]] = []
    while len(seen) < count:
        batch = next(batches)
        new = {example_id: row for row, example_id in enumerate(batch.ids.tolist()) if example_id not in seen}
        if not new:
            break
        rows = torch.tensor(list(new.values())[: count - len(seen)])
        seen.update(batch.ids[rows].tolist())
        columns = {INPUT + name: values for name, values in full_length(batch.inputs, shapes).items()}
        parts.append(select({"id": batch.ids, "target": batch.targets, **columns}, rows))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def select(columns: Columns | BufferDict, rows: Tensor) -> dict[str, Tensor]:
    """The rows of all columns that an index or a mask chooses."""
    return {name: columns[name][rows] for name in columns}


def inputs_of(columns: Columns | BufferDict) -> dict[str, Tensor]:
    """The input tensors by name."""
    return {name.removeprefix(INPUT): columns[name] for name in columns if name.startswith(INPUT)}


def batch_of(columns: Columns) -> Batch:
    """The examples as a batch."""
    return Batch(columns["id"].cpu(), Inputs(inputs_of(columns)), columns["target"])


def full_length(inputs: Mapping[str, Tensor], shapes: InputShapes) -> dict[str, Tensor]:
    """The tensors of a batch, with sequences padded by zeros to their longest, so that all can be stacked."""
    if not isinstance(inputs, Inputs) or inputs.lengths is None:
        return dict(inputs)
    padded = {name: values.new_zeros(len(values), *shapes[name]) for name, values in inputs.items()}
    for name, values in inputs.items():
        padded[name][:, : values.shape[1]] = values
    return padded
