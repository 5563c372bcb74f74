"""Running mean and variance, for observations and rewards that are to be standardised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.interfaces.inputs import Shape

FARTHEST = 10.0
"""Standardised values are clipped to this on both sides."""

EPSILON = 1e-8


@attrs.define(eq=False)
class RunningMeanStd:
    """Mean and variance of all rows seen so far, in float64, batch by batch (Chan, Golub & LeVeque 1979)."""

    mean: Tensor
    squares: Tensor
    """Sum of the squared differences from the mean."""
    count: int = 0

    @classmethod
    def of(cls, shape: Shape) -> RunningMeanStd:
        """Of rows of that shape, with none seen."""
        return cls(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))

    @property
    def variance(self) -> Tensor:
        """Of the rows, over their number; 1 before there are two."""
        return self.squares / self.count if self.count > 1 else torch.ones_like(self.squares)

    def see(self, rows: Tensor) -> None:
        """Take rows (B, *shape) into account."""
        new = rows.double()
        mean, count = new.mean(0), self.count + len(new)
        apart = mean - self.mean
        self.squares = (
            self.squares + (new - mean).square().sum(0) + apart.square() * self.count * len(new) / count
        )
        self.mean = self.mean + apart * len(new) / count
        self.count = count

    def standardised(self, rows: Tensor) -> Tensor:
        """``(rows - mean) / deviation`` of (B, *shape), clipped, in float32."""
        return self.scaled(rows.double() - self.mean)

    def scaled(self, rows: Tensor) -> Tensor:
        """``rows / deviation`` of (B, *shape), clipped, in float32."""
        return (rows.double() / (self.variance + EPSILON).sqrt()).clamp(-FARTHEST, FARTHEST).float()

    def state(self) -> dict[str, Any]:
        """As plain numbers; `from_state` reads them back without loss."""
        return {"mean": self.mean.tolist(), "squares": self.squares.tolist(), "count": self.count}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RunningMeanStd:
        """What `state` wrote."""

        def column(values: float | Sequence[Any]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64)

        return cls(column(state["mean"]), column(state["squares"]), state["count"])
