"""What a module holds, and whether it is still the same bit for bit."""

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
from sidetune_core.testing.findings import Broken

Snapshot = Mapping[str, bytes]


def random_state() -> tuple[object, ...]:
    """The states of the global generators of torch (on the CPU), NumPy and Python."""
    kind, keys, place, *rest = np.random.get_state(legacy=True)
    return (
        torch.get_rng_state().numpy().tobytes(),
        kind,
        np.asarray(keys).tobytes(),
        place,
        *rest,
        random.getstate(),
    )


@contextmanager
def building(seed: int, *names: object) -> Iterator[None]:
    """`seeded`, for a block that builds something of a plugin.

    Raises:
        Broken: the plugin has seeded PyTorch itself.
    """
    with seeded(seed, *names):
        given = torch.initial_seed()
        yield
        if torch.initial_seed() != given:
            raise Broken(
                "seeds PyTorch's global generator (torch.manual_seed); the core does that, so only draw from it"
            )


def snapshot(module: nn.Module) -> Snapshot:
    """A digest of every tensor of a module."""
    return {name: tensor_digest(name, tensor) for name, tensor in named_tensors(module)}


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Names whose tensors differ, came, or went."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are the same bit for bit."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
