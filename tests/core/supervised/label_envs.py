"""Envs whose tasks have labels or values; imported as ``label_envs:NAME``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import (
    LoadedExamples,
    MultiLabel,
    Objective,
    Regression,
    Request,
    Source,
    SupervisedTask,
    TaskStream,
)


@attrs.frozen
class Config:
    """No options."""


class Points(Source):
    """32 points ``x`` (4,), with three targets each."""

    shapes = {"x": (4,)}

    def __init__(self, seed: int, labels: bool) -> None:
        self._first_id = 1000 * seed
        self._x = torch.randn(32, 4, generator=torch.Generator().manual_seed(seed))
        self._targets = (self._x[:, :3] > 0.5).float() if labels else self._x[:, :3] - self._x[:, 1:]

    def __len__(self) -> int:
        return len(self._x)

    def ids(self, rows: Tensor) -> Tensor:
        return rows + self._first_id

    def targets(self) -> Tensor:
        return self._targets

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        for request in requests:
            yield LoadedExamples(request, {"x": self._x[request.rows]}, self._targets[request.rows])


class Labels(TaskStream):
    """Two tasks of three labels."""

    Config = Config
    inputs = {"x": (4,)}

    def __init__(self, config: Config, seed: int) -> None:
        """The data are the same for every seed."""

    def objective(self) -> Objective:
        return MultiLabel(("red", "round", "rare"))

    def tasks(self) -> Sequence[SupervisedTask]:
        objective = self.objective()
        labels = objective.outputs.is_binary
        return [
            SupervisedTask(
                f"t{k}", f"set {k}", {"train": Points(k, labels), "test": Points(10 + k, labels)}, objective
            )
            for k in range(2)
        ]

    def fingerprint(self) -> str:
        return type(self).__name__


class Values(Labels):
    """Two tasks of three values."""

    def objective(self) -> Objective:
        return Regression(("a", "b", "c"))
