"""Decoded images in memory, up to a limit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class PixelCache:
    """Decoded images without augmentation by example id, in 0, 1, …, `count` - 1.

    It is filled in the order in which images are first read, while there is room; nothing is evicted. Its
    memory is allocated as it is filled.

    Args:
        limit_bytes: memory for pixels.
        count: number of example ids.
        size: height and width of the images.
    """

    def __init__(self, limit_bytes: int, count: int, size: int) -> None:
        self.rows = min(count, limit_bytes // (3 * size * size))
        """How many images there is room for."""
        self.filled = 0
        """How many images it has."""
        self._row_of = np.full(count, -1, np.int32)
        self._table = torch.empty(self.rows, 3, size, size, dtype=torch.uint8)

    def has(self, ids: Tensor) -> Tensor:
        """Which of some ids (B,) it has: (B,) bool."""
        return torch.from_numpy(self._row_of[ids.numpy()] >= 0)

    def get(self, ids: Tensor) -> Tensor:
        """The images (B, 3, size, size) uint8 of ids (B,), all of which it has."""
        return self._table[torch.from_numpy(self._row_of[ids.numpy()]).long()]

    def add(self, id: int, pixels: Tensor) -> None:
        """Keep an image (3, size, size) uint8, if there is room."""
        if self.filled < self.rows and self._row_of[id] < 0:
            self._table[self.filled] = pixels
            self._row_of[id] = self.filled
            self.filled += 1
