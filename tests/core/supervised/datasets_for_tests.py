"""Small datasets, importable by worker processes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset


class Noisy(Dataset[Any]):
    """Inputs x (3,): the number of the example plus noise of the three global generators; targets 0, 1, …"""

    def __init__(self, count: int = 12, classes: int = 3) -> None:
        self.count, self.kinds = count, classes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        noise = torch.tensor([float(torch.rand(1)), np.random.rand(), random.random()])
        return row + noise, row % self.kinds


class OwnGenerator(Noisy):
    """Draws from a generator of its own, which nobody can seed."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.rand(3, generator=self.generator), row % 3


class Fixed(Noisy):
    """Inputs x (3,), the number of the example."""

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return torch.full((3,), float(row)), row % self.kinds


class Raises(Fixed):
    """The disk of example 6 is broken."""

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        if row == 6:
            raise OSError("the disk is broken")
        return super().__getitem__(row)


class Killed(Fixed):
    """Kills the worker process that reads example 6."""

    targets = tuple(row % 3 for row in range(12))

    def __init__(self) -> None:
        super().__init__()
        self.parent = os.getpid()

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        if row == 6 and os.getpid() != self.parent:
            os._exit(9)
        return super().__getitem__(row)


class Stream(IterableDataset[Any]):
    """Examples 0, 1, … in order, with noise."""

    def __init__(self, count: int = 12, classes: int = 3) -> None:
        self.count, self.kinds = count, classes

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for row in range(self.count):
            yield row + torch.rand(3), row % self.kinds


class SizedStream(Stream):
    """A stream that knows its length."""

    def __len__(self) -> int:
        return self.count
