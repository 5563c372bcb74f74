"""Lateral connections: adapters between activations of any shapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import FitError, Shape

AdapterKind = Literal["linear", "mlp"]


class Lateral(nn.Module):
    """An adapter between activations of the same rank: (C,), (L, C) or (C, H, W).

    Maps and sequences are first resized to the target: larger ones by max pooling, smaller ones by
    nearest-neighbour interpolation. Then ``linear`` is one 1 x 1 layer, and ``mlp`` a learned scale,
    initially 0.9, and two 1 x 1 layers with a normalisation and ReLU between them (Rusu et al. 2016, eq. 2,
    as in the original side-tuning code). Forward: (B, *source) to (B, *target).

    Raises:
        FitError: the ranks differ.
    """

    def __init__(self, source: Shape, target: Shape, kind: AdapterKind) -> None:
        super().__init__()
        if len(source) != len(target):
            raise FitError(
                f"a lateral connection from {tuple(source)} to {tuple(target)} is impossible: the ranks "
                "differ"
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
        x = self._resize(activation)
        if self.first is not None:
            x = functional.relu(self.norm(self.first(self.scale * x)))
        adapted: Tensor = self.second(x)
        return adapted

    def _resize(self, activation: Tensor) -> Tensor:
        if len(self.target) == 1:
            return activation
        if len(self.target) == 2:
            maps = activation.transpose(1, 2)[:, :, None]  # (B, C, 1, L)
            return _resize_maps(maps, (1, self.target[0]))[:, :, 0].transpose(1, 2)
        return _resize_maps(activation, self.target[1:])


class Column(nn.Module):
    """The lateral connections into one column: from each source into every stage but the first.

    The source of stage k in an earlier column is its stage k - 1 (Rusu et al. 2016, eq. 1). In another
    network, the base, it is the deepest activation that is at least as large as the stage's.

    Args:
        sources: for each source, the shapes of its activations, in order of depth.
        aligned: for each source, whether it is an earlier column, with the same stages.
        stages: output shapes of the column's own stages.
        kind: of adapter.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Shape]],
        aligned: Sequence[bool],
        stages: Sequence[Shape],
        kind: AdapterKind,
    ) -> None:
        super().__init__()
        self.source_indices: list[list[int]] = []
        """For each stage from the second, the index of the activation of each source."""
        self.adapters = nn.ModuleList()
        for stage, target in enumerate(stages[1:], 1):
            indices = [
                stage - 1 if is_aligned else deepest_fitting(shapes, target)
                for shapes, is_aligned in zip(sources, aligned, strict=True)
            ]
            self.source_indices.append(indices)
            self.adapters.append(
                nn.ModuleList(
                    Lateral(shapes[index], target, kind)
                    for shapes, index in zip(sources, indices, strict=True)
                )
            )

    def lateral_input(self, stage: int, activations: Sequence[Sequence[Tensor]]) -> Tensor | float:
        """The sum of the adapters' outputs for a stage; 0 for the first stage."""
        if stage == 0:
            return 0.0
        adapters, indices = self.adapters[stage - 1], self.source_indices[stage - 1]
        total: Tensor | float = 0.0
        for adapter, index, source in zip(adapters, indices, activations, strict=True):  # type: ignore[call-overload]
            total = total + adapter(source[index])
        return total


def deepest_fitting(shapes: Sequence[Shape], target: Shape) -> int:
    """Index of the deepest of `shapes` at least as large as `target` (in H and W, or in L); 0 if none is."""
    fitting = [index for index, shape in enumerate(shapes) if _covers(shape, target)]
    return fitting[-1] if fitting else 0


def _covers(shape: Shape, target: Shape) -> bool:
    return len(shape) == len(target) and all(a >= b for a, b in zip(_size(shape), _size(target), strict=True))


def _size(shape: Shape) -> Shape:
    """The axes of a shape that are not channels."""
    return shape[1:] if len(shape) == 3 else shape[:-1]


def _resize_maps(maps: Tensor, size: Shape) -> Tensor:
    """(B, C, H, W) to (B, C, *size)."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    if maps.shape[2] >= size[0] and maps.shape[3] >= size[1]:
        return functional.adaptive_max_pool2d(maps, list(size))
    return functional.interpolate(maps, size=list(size), mode="nearest")
