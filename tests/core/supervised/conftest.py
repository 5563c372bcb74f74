"""Sources of examples in memory whose targets are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch import Tensor

from sidetune_core.supervised.sources import LoadedExamples, Request, Source

MakeSource = Callable[..., Source]


class Rows(Source):
    """Inputs ``x`` (1,), the numbers of the examples."""

    def __init__(self, targets: Tensor, first_id: int = 0, width: int = 1) -> None:
        self.shapes = {"x": (width,)}
        self._targets, self._first_id = targets, first_id

    def __len__(self) -> int:
        return len(self._targets)

    def ids(self, rows: Tensor) -> Tensor:
        return rows + self._first_id

    def targets(self) -> Tensor:
        return self._targets

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        for request in requests:
            x = self.ids(request.rows)[:, None].float().expand(-1, *self.shapes["x"])
            yield LoadedExamples(request, {"x": x}, self._targets[request.rows])


@pytest.fixture
def rows() -> MakeSource:
    """Makes a source.

    Args: the targets; id of the first example; number of values of an input.
    """
    return Rows


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
