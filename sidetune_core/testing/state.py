"""Snapshots of modules and random states, for bitwise comparison."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from sidetune_core.certificate.probes import named_tensors as named_tensors
from sidetune_core.hashing import tensor_digest
from sidetune_core.seeding import seeded
from sidetune_core.testing.advice import SEEDED_BY_CORE
from sidetune_core.testing.findings import Broken

Snapshot = Mapping[str, bytes]


def random_state() -> tuple[object, ...]:
    """The states of the global generators of torch (on the CPU), NumPy and Python."""
    kind, keys, position, *rest = np.random.get_state(legacy=True)
    return (
        torch.get_rng_state().numpy().tobytes(),
        kind,
        np.asarray(keys).tobytes(),
        position,
        *rest,
        random.getstate(),
    )


@contextmanager
def building(seed: int, *names: object) -> Iterator[None]:
    """`seeded`, for a block that builds a plugin.

    Raises:
        Broken: the plugin seeds PyTorch itself.
    """
    with seeded(seed, *names):
        expected = torch.initial_seed()
        yield
        if torch.initial_seed() != expected:
            raise Broken(f"seeds {SEEDED_BY_CORE}")


def snapshot(module: nn.Module) -> Snapshot:
    """A digest of every tensor of a module."""
    return {name: tensor_digest(name, tensor) for name, tensor in named_tensors(module)}


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Names of tensors that differ, or are in one snapshot only."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are bitwise equal."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
