"""Lateral connections: adapters between activations of any shapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import FitError, Shape

Kind = Literal["linear", "mlp"]


class Lateral(nn.Module):
    """An adapter from activations of shape `source` to shape `target`, both of one rank: (C,), (L, C) or (C, H, W).

    Maps and sequences are first brought to the target's size: by the largest value in each cell where they are larger, by repetition where
    they are smaller. Then ``linear`` is one 1 x 1 layer, and ``mlp`` two with a normalisation and ReLU between, behind a learned scale that
    begins at 0.9 (Rusu et al. 2016, eq. 2, as the original side-tuning code has it). Forward: (B, *source) to (B, *target).

    Raises:
        FitError: the ranks differ.
    """

    def __init__(self, source: Shape, target: Shape, kind: Kind) -> None:
        super().__init__()
        if len(source) != len(target):
            raise FitError(
                f"a lateral connection cannot lead from activations of shape {tuple(source)} to {tuple(target)}"
            )
        self.target = tuple(target)
        maps = len(target) == 3
        c_in, c_out = (source[0], target[0]) if maps else (source[-1], target[-1])
        width = c_in if kind == "linear" else c_out
        self.second = nn.Conv2d(width, c_out, 1) if maps else nn.Linear(width, c_out)
        self.first: nn.Module | None = None
        if kind == "mlp":
            self.scale = nn.Parameter(torch.tensor(0.9))
            self.first = nn.Conv2d(c_in, c_out, 1, bias=False) if maps else nn.Linear(c_in, c_out, bias=False)
            self.norm = nn.GroupNorm(gcd(2, c_out), c_out) if maps else nn.LayerNorm(c_out)

    def forward(self, activation: Tensor) -> Tensor:
        x = self._resized(activation)
        if self.first is not None:
            x = functional.relu(self.norm(self.first(self.scale * x)))
        adapted: Tensor = self.second(x)
        return adapted

    def _resized(self, activation: Tensor) -> Tensor:
        if len(self.target) == 1:
            return activation
        if len(self.target) == 2:
            return _to_size(activation.transpose(1, 2)[:, :, None], (1, self.target[0]))[:, :, 0].transpose(
                1, 2
            )
        return _to_size(activation, self.target[1:])


class Column(nn.Module):
    """The lateral connections into one column: for every stage but the first, one from each source.

    Args:
        sources: for each source, the shapes of the activations that it offers, in the order of depth.
        aligned: for each source, whether its activations are those of the same stages (an earlier column's) or of another network.
        stages: shapes of what the column's own stages give.
        kind: of adapter.

    An earlier column enters stage k from its stage k - 1 (Rusu et al. 2016, eq. 1). Another network, the base, enters from its deepest
    activation that is still at least as large as the stage's.
    """

    def __init__(
        self, sources: Sequence[Sequence[Shape]], aligned: Sequence[bool], stages: Sequence[Shape], kind: Kind
    ) -> None:
        super().__init__()
        self.places = [
            [
                stage - 1 if same else deepest_fitting(shapes, stages[stage])
                for shapes, same in zip(sources, aligned, strict=True)
            ]
            for stage in range(1, len(stages))
        ]
        self.adapters = nn.ModuleList(
            nn.ModuleList(
                Lateral(shapes[place], target, kind) for shapes, place in zip(sources, places, strict=True)
            )
            for target, places in zip(stages[1:], self.places, strict=True)
        )

    def enter(self, stage: int, activations: Sequence[Sequence[Tensor]]) -> Tensor | float:
        """What is added to a stage, out of each source's activations; nothing enters the first one."""
        if stage == 0:
            return 0.0
        adapters, places = self.adapters[stage - 1], self.places[stage - 1]
        total: Tensor | float = 0.0
        for adapter, place, source in zip(adapters, places, activations, strict=True):  # type: ignore[call-overload]
            total = total + adapter(source[place])
        return total


def deepest_fitting(shapes: Sequence[Shape], target: Shape) -> int:
    """Which of `shapes` is the deepest that is at least as large as `target` (in H and W, or in L); the first if none is."""
    fitting = [place for place, shape in enumerate(shapes) if _covers(shape, target)]
    return fitting[-1] if fitting else 0


def _covers(shape: Shape, target: Shape) -> bool:
    return len(shape) == len(target) and all(a >= b for a, b in zip(_size(shape), _size(target), strict=True))


def _size(shape: Shape) -> Shape:
    """The axes of a shape that are not channels."""
    return shape[1:] if len(shape) == 3 else shape[:-1]


def _to_size(maps: Tensor, size: Shape) -> Tensor:
    """(B, C, H, W) to (B, C, *size)."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    if maps.shape[2] >= size[0] and maps.shape[3] >= size[1]:
        return functional.adaptive_max_pool2d(maps, list(size))
    return functional.interpolate(maps, size=list(size), mode="nearest")
