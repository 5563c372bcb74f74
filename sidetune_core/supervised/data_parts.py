"""What a source of labelled examples consists of, for the record of a run's data."""

from __future__ import annotations

import hashlib
from collections import Counter

import torch
from torch import Tensor

from sidetune_core.hashing import tensor_digest
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.interfaces.tasks import DataPart
from sidetune_core.supervised.sources import Source


def source_parts(source: Source, outputs: Outputs) -> dict[str, DataPart]:
    """A part for each class by its name, or one with an empty name if the targets are no classes; none if the
    source has no digests.

    Args:
        source: of a split.
        outputs: of its task.
    """
    if not len(source) or not source.digest(torch.arange(1)):
        return {}
    targets = source.targets()
    if not _are_classes(targets, outputs):
        rows = torch.arange(len(source))
        content = source.digest(rows) + tensor_digest("targets", targets).hex()
        return {"": DataPart(len(rows), hashlib.sha256(content.encode()).hexdigest())}
    order = torch.argsort(targets, stable=True)
    labels, counts = torch.unique_consecutive(targets[order], return_counts=True)
    rows_by_label = dict(zip(labels.tolist(), torch.split(order, counts.tolist()), strict=True))
    names = _names(outputs, max(rows_by_label) + 1)
    return {names[label]: DataPart(len(rows), source.digest(rows)) for label, rows in rows_by_label.items()}


def _are_classes(targets: Tensor, outputs: Outputs) -> bool:
    is_integer = not targets.is_floating_point() and targets.dtype != torch.bool
    return outputs.kind == "logits" and targets.ndim == 1 and is_integer and bool((targets >= 0).all())


def _names(outputs: Outputs, count: int) -> list[str]:
    """Distinct names of classes; their numbers where they have none."""
    names = [*outputs.names, *map(str, range(len(outputs.names), count))]
    repeated = Counter(names)
    return [f"{name} ({label})" if repeated[name] > 1 else name for label, name in enumerate(names)]
