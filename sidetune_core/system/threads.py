"""The number of threads of PyTorch's operations, which decides on rounding."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

VARIABLE = "OMP_NUM_THREADS"


def available() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def may_set(count: int) -> bool:
    """Whether this process may use `count` threads: the user has not set ``OMP_NUM_THREADS``, and there are
    as many processors."""
    return VARIABLE not in os.environ and 0 < count <= available()


@contextmanager
def set_threads(count: int) -> Iterator[None]:
    """Compute with `count` threads in a block, if `may_set` allows it."""
    before = torch.get_num_threads()
    if count == before or not may_set(count):
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
