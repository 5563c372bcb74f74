"""A limit on what is allocated while a learner is built: the options in a file of a stranger could ask for a
network of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sidetune_core.errors import WeightsError
from sidetune_core.system.shortage import is_out_of_memory

SPARE = 2**28
"""Elements that a learner may allocate while it is built, and then not keep, as for a classifier that a base
leaves out."""

COPIES = 4
"""How often it may allocate what it keeps."""

SPARE_TENSORS = 20_000
"""Tensors of any size that it may allocate besides, each with the objects of a module around it."""

PER_TENSOR = 16
"""How many tensors it may allocate for each that it keeps."""


class _Counts:
    """The methods of `AllocationLimit`; see `certificate.probes` for why they are apart."""

    def __init__(self, limit: int, tensors: int, source: str) -> None:
        super().__init__()
        self.left, self.tensors_left, self.source = limit, tensors, source

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        size = args[0] if args else kwargs.get("size")
        device = kwargs.get("device")
        is_meta = device is not None and torch.device(device).type == "meta"
        if isinstance(size, list | tuple) and all(type(length) is int for length in size):
            self.left -= 0 if is_meta else prod(size)
            self.tensors_left -= 1
            if min(self.left, self.tensors_left) < 0:
                raise WeightsError(
                    f"{self.source} asks for a network that is far larger than its tensors; it is not built"
                )
        return func(*args, **kwargs)


class AllocationLimit(_Counts, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts new tensors and their elements, and stops at a limit before they are allocated.

    Raises, within any operation:
        WeightsError: the limit is reached.
    """


@contextmanager
def limited(elements: int, source: str, tensors: int = 0) -> Iterator[None]:
    """Within the block, no more is allocated than a network of this size needs while it is built.

    Args:
        elements: of all tensors that are kept.
        source: where this number is from, for the message.
        tensors: their number, as far as it is known.

    Raises:
        WeightsError: more is asked for, or there is not enough memory for it.
    """
    try:
        with AllocationLimit(COPIES * elements + SPARE, PER_TENSOR * tensors + SPARE_TENSORS, source):
            yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise WeightsError(f"there is not enough memory to restore {source}") from error
        raise


def count_elements(state: Mapping[str, Any]) -> int:
    """The number of elements of a state dict."""
    return sum(value.numel() for value in state.values() if isinstance(value, Tensor))
