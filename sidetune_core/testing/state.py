"""What a module holds, and whether it is still the same bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sidetune_core.probes import named_tensors as named_tensors
from sidetune_core.weights import tensor_digest

Snapshot = Mapping[str, bytes]


def snapshot(module: nn.Module) -> Snapshot:
    """A digest of every tensor of a module."""
    return {name: tensor_digest(name, tensor) for name, tensor in named_tensors(module)}


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Names whose tensors differ, came, or went."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are the same bit for bit."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
