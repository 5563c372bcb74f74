"""The global generators while an example of a dataset is read: seeded for it, and restored afterwards.

Datasets augment with the global generators of torch, NumPy and Python. Seeded before each example, what they
return is a function of the seed, in this process and in any worker.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import torch


@attrs.frozen(eq=False)
class States:
    """Of the generators on the CPU."""

    torch: Any
    numpy: Any
    python: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, States):
            return NotImplemented
        same = bool(torch.equal(self.torch, other.torch)) and self.python == other.python
        return same and all(np.array_equal(a, b) for a, b in zip(self.numpy, other.numpy, strict=True))

    __hash__ = None  # type: ignore[assignment]  # states are compared, not collected


def states() -> States:
    """The present ones."""
    return States(torch.get_rng_state(), np.random.get_state(), random.getstate())


def set_states(value: States) -> None:
    """Restore what `states` returned."""
    torch.set_rng_state(value.torch)
    np.random.set_state(value.numpy)
    random.setstate(value.python)


def seed_all(seed: int) -> None:
    """Seed the generators on the CPU."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def kept() -> Iterator[None]:
    """Restore the generators after a block."""
    before = states()
    try:
        yield
    finally:
        set_states(before)
