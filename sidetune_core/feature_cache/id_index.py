"""Row numbers by example id: a hash table."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints: TypeAlias = npt.NDArray[np.int64]
Slots: TypeAlias = npt.NDArray[np.uint64]

GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: its multiples spread consecutive ids evenly (Knuth, volume 3, section 6.4)."""
MIN_BITS = 10


class IdIndex:
    """Row numbers by id, which may be any int64, in 32 to 64 bytes for each row.

    Open addressing with linear probing; at least half of the slots are free.
    """

    def __init__(self) -> None:
        self._allocate(MIN_BITS)

    def __len__(self) -> int:
        return self._count

    def find(self, ids: Tensor) -> Tensor:
        """The row (n,) of each id (n,), -1 for an unknown one."""
        wanted: Ints = ids.numpy()
        slots = self._hash(wanted)
        rows: Ints = self._rows[slots]
        other = (self._ids[slots] != wanted) & (rows >= 0)
        if other.any():
            (pending,) = other.nonzero()
            slots = slots[pending]
            while len(pending):
                slots = (slots + np.uint64(1)) & self._last
                rows[pending] = self._rows[slots]
                other = (self._ids[slots] != wanted[pending]) & (rows[pending] >= 0)
                pending, slots = pending[other], slots[other]
        return torch.from_numpy(rows)

    def add(self, ids: Tensor, rows: Tensor) -> None:
        """Add distinct ids (n,) that are not known yet, with distinct rows (n,)."""
        self._add(ids.numpy(), rows.numpy())

    def remove_before(self, row: int) -> None:
        """Forget the ids whose row is less than `row`."""
        kept = self._rows >= row
        ids, rows = self._ids[kept], self._rows[kept]
        self._allocate(MIN_BITS)
        self._add(ids, rows)

    def _allocate(self, bits: int) -> None:
        """Make 2**bits free slots."""
        self._count, self._bits = 0, bits
        self._ids: Ints = np.zeros(2**bits, np.int64)
        self._rows: Ints = np.full(2**bits, -1)
        self._shift, self._last = np.uint64(64 - bits), np.uint64(2**bits - 1)

    def _hash(self, ids: Ints) -> Slots:
        """The slot (n,) at which the search for each id begins."""
        return (ids.view(np.uint64) * GOLDEN_RATIO) >> self._shift

    def _add(self, ids: Ints, rows: Ints) -> None:
        bits = (2 * (self._count + len(ids))).bit_length()
        if bits > self._bits:
            used = self._rows >= 0
            ids, rows = np.concatenate([self._ids[used], ids]), np.concatenate([self._rows[used], rows])
            self._allocate(bits)
        self._count += len(ids)
        slots = self._hash(ids)
        while len(ids):
            free = self._rows[slots] < 0
            self._ids[slots[free]], self._rows[slots[free]] = ids[free], rows[free]
            lost = self._rows[slots] != rows  # to another id, also where two of these wanted a free slot
            ids, rows, slots = ids[lost], rows[lost], (slots[lost] + np.uint64(1)) & self._last
