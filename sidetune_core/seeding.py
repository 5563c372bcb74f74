"""Random numbers that depend on a seed and on names, never on what ran before."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed from the run's seed and some names, unrelated for different names."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int, *names: object) -> Iterator[None]:
    """Seed torch, NumPy and Python from (seed, names) for a block, and restore their states afterwards."""
    value = derive_seed(seed, *names)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # Without accelerators, counting CUDA devices looks for the driver's library each time.
    devices = torch.cuda.device_count() if torch.accelerator.is_available() else 0
    with torch.random.fork_rng(devices=range(devices)):
        _seed_torch(value)
        np.random.seed(value % 2**32)
        random.seed(value)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _seed_torch(value: int) -> None:
    """`torch.manual_seed`, which formats stack traces for accelerators even where there are none."""
    if torch.accelerator.is_available():
        torch.manual_seed(value)
    else:
        torch.default_generator.manual_seed(value)


def random_states() -> dict[str, Any]:
    """The states of the generators of Python, NumPy and torch on every device, for `set_random_states`."""
    kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Restore the states of the generators, except those of devices that are not available."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
