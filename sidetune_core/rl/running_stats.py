"""Running mean and variance, to standardise observations and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.interfaces.inputs import Shape

CLIP_RANGE = 10.0
"""Standardised values are clipped to [-CLIP_RANGE, CLIP_RANGE]."""

EPSILON = 1e-8


@attrs.define(eq=False)
class RunningMeanStd:
    """Mean and variance of all rows so far, in float64, updated batch by batch (Chan, Golub & LeVeque
    1979)."""

    mean: Tensor
    squares: Tensor
    """Sum of the squared differences from the mean."""
    count: int = 0

    @classmethod
    def of(cls, shape: Shape) -> RunningMeanStd:
        """Statistics of rows of that shape, before the first row."""
        return cls(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))

    @property
    def variance(self) -> Tensor:
        """The population variance; 1 while there are fewer than two rows."""
        return self.squares / self.count if self.count > 1 else torch.ones_like(self.squares)

    @property
    def std(self) -> Tensor:
        """The standard deviation, by which values are divided; never zero."""
        return (self.variance + EPSILON).sqrt()

    def update(self, rows: Tensor) -> None:
        """Include rows (B, *shape)."""
        new = rows.double()
        mean, count = new.mean(0), self.count + len(new)
        delta = mean - self.mean
        self.squares = (
            self.squares + (new - mean).square().sum(0) + delta.square() * self.count * len(new) / count
        )
        self.mean = self.mean + delta * len(new) / count
        self.count = count

    def standardised(self, rows: Tensor) -> Tensor:
        """``(rows - mean) / std`` of (B, *shape), clipped, in float32."""
        return self.scaled(rows.double() - self.mean)

    def scaled(self, rows: Tensor) -> Tensor:
        """``rows / std`` of (B, *shape), clipped, in float32."""
        return (rows.double() / self.std).clamp(-CLIP_RANGE, CLIP_RANGE).float()

    def state(self) -> dict[str, Any]:
        """Plain numbers, from which `from_state` restores the statistics exactly."""
        return {"mean": self.mean.tolist(), "squares": self.squares.tolist(), "count": self.count}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RunningMeanStd:
        """The inverse of `state`."""

        def column(values: float | Sequence[Any]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64)

        return cls(column(state["mean"]), column(state["squares"]), state["count"])
