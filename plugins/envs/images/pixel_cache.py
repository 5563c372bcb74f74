"""Decoded images in memory, up to a limit."""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from sidetune_core.api import DataError


class PixelCache:
    """Decoded images without augmentation by example id, 0 to `count` - 1.

    It is filled in the order in which images are first read, while there is room; nothing is evicted. What
    it does not have is decoded again, to the same bytes. A copy shares its images, and one that is pickled
    comes back empty.

    Args:
        limit_bytes: memory for pixels. It is reserved at once, and in use only as far as it is filled.
        count: number of example ids.
        size: height and width of the images.

    Raises:
        DataError: the memory cannot be reserved.
    """

    def __init__(self, limit_bytes: int, count: int, size: int) -> None:
        self._arguments = (limit_bytes, count, size)
        self.room = min(count, limit_bytes // (3 * size * size))
        """How many images fit."""
        self.filled = 0
        """How many images it has."""
        self._lock = threading.Lock()
        try:
            self._row_of = np.full(count, -1, np.int32)
            # not torch.empty, which fills its memory where PyTorch's deterministic algorithms are on
            self._table = torch.from_numpy(np.empty((self.room, 3, size, size), np.uint8))
        except MemoryError as error:
            needed = self.room * 3 * size * size / 1e6
            raise DataError(
                f"cannot reserve {needed:,.0f} MB for {self.room:,} decoded images; set a lower --env.memory"
            ) from error

    def has(self, ids: Tensor) -> Tensor:
        """Which of some ids (B,) it has: (B,) bool."""
        return torch.from_numpy(self._row_of[ids.numpy()] >= 0)

    def get(self, ids: Tensor) -> Tensor:
        """The images (B, 3, size, size) uint8 of ids (B,), all of which it has."""
        # several times faster than the index operator
        return self._table.index_select(0, torch.from_numpy(self._row_of[ids.numpy()]))

    def add(self, ids: Tensor, pixels: Tensor) -> None:
        """Keep images (B, 3, size, size) uint8 of ids (B,), while there is room."""
        if self.filled == self.room:
            return
        with self._lock:
            for id, image in zip(ids.tolist(), pixels, strict=True):
                if self.filled < self.room and self._row_of[id] < 0:
                    self._table[self.filled] = image
                    self._row_of[id] = self.filled  # after its pixels: others read without the lock
                    self.filled += 1

    def __deepcopy__(self, memo: object) -> PixelCache:
        return self

    def __reduce__(self) -> tuple[type[PixelCache], tuple[int, int, int]]:
        return PixelCache, self._arguments
