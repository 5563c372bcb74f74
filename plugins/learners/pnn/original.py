"""Lateral connections as in the original side-tuning code (class ``FCN4ProgressiveH``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import FitError, Shape, StagedSide

NEEDS = "learner 'pnn' with --learner.form original "


class OriginalColumn(nn.Module):
    """The lateral connections into one column of convolutions, added before the norm of each stage.

    Into stage k leads an adapter from tap k of the base (the last tap if there are fewer), and, from the
    second stage on, one from stage k - 1 of each earlier column. An adapter is a learned scale, initially
    0.9, a convolution, GroupNorm with two groups, ReLU, and a convolution of 1 x 1, all without biases. The
    first convolution is 1 x 1 from the base, and that of the stage itself (3 x 3, strided) from a column.
    What comes from the base is then max-pooled by the rounded ratio of the sizes, and all terms are cropped
    to the smallest.

    Args:
        taps: shapes of the base's taps.
        columns: number of earlier columns, with the same stages.
        side: the column.

    Raises:
        FitError: a stage does not begin with a convolution, or a tap is no map, or smaller than its stage.
    """

    def __init__(self, taps: Sequence[Shape], columns: int, side: StagedSide) -> None:
        super().__init__()
        self.from_base, self.from_columns = nn.ModuleList(), nn.ModuleList()
        self.taps: list[int] = []
        """For each stage, the index of its tap."""
        self.pools: list[tuple[int, int]] = []
        """For each stage, the factors by which what comes from the base is pooled, (H, W)."""
        for stage, conv in enumerate(convolutions(side)):
            tap, target = min(stage, len(taps) - 1), side.stage_shapes[stage]
            source = taps[tap]
            if len(source) != 3 or source[1] < target[1] or source[2] < target[2]:
                raise FitError(
                    f"{NEEDS}needs taps that are maps at least as large as the side's stages; tap {tap} of "
                    f"the base is {tuple(source)}, and stage {stage} is {tuple(target)}. Leave out "
                    "--learner.form"
                )
            self.taps.append(tap)
            self.pools.append((_ratio(source[1], target[1]), _ratio(source[2], target[2])))
            self.from_base.append(_adapter(nn.Conv2d(source[0], target[0], 1, bias=False), target[0]))
            if stage > 0:
                self.from_columns.append(
                    nn.ModuleList(_adapter(_like(conv), target[0]) for _ in range(columns))
                )

    def add(self, stage: int, output: Tensor, activations: Sequence[Sequence[Tensor]]) -> Tensor:
        """The output of a stage's convolution with the laterals, cropped to the smallest of them.

        Args:
            stage: its number.
            output: (B, C, H, W).
            activations: the base's taps, then the stages of each earlier column.
        """
        base, *columns = activations
        adapted = self.from_base[stage](base[self.taps[stage]])
        terms = [output, functional.max_pool2d(adapted, self.pools[stage])]
        if stage > 0:
            adapters = self.from_columns[stage - 1]
            assert isinstance(adapters, nn.ModuleList)
            terms += [adapter(column[stage - 1]) for adapter, column in zip(adapters, columns, strict=True)]
        height, width = (min(term.shape[axis] for term in terms) for axis in (2, 3))
        return torch.stack([term[:, :, :height, :width] for term in terms]).sum(0)

    def run(
        self, side: StagedSide, inputs: Mapping[str, Tensor], activations: Sequence[Sequence[Tensor]]
    ) -> list[Tensor]:
        """The activations of the column, (B, C, H, W) for each stage."""
        with self._applied(side, activations):
            return side.run(inputs)

    @contextmanager
    def _applied(self, side: StagedSide, activations: Sequence[Sequence[Tensor]]) -> Iterator[None]:
        with ExitStack() as stack:
            for stage, conv in enumerate(convolutions(side)):

                def hook(_: nn.Module, arguments: Any, output: Tensor, stage: int = stage) -> Tensor:
                    return self.add(stage, output, activations)

                stack.enter_context(conv.register_forward_hook(hook))
            yield


class Scale(nn.Module):
    """A learned factor, initially 0.9."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.9))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def convolutions(side: StagedSide) -> list[nn.Conv2d]:
    """The convolution that each stage begins with.

    Raises:
        FitError: a stage begins with something else.
    """
    firsts = [linear[0] if isinstance(linear, nn.Sequential) else linear for linear, _ in side.stages()]
    convs = [first for first in firsts if isinstance(first, nn.Conv2d)]
    if len(convs) < len(firsts):
        raise FitError(
            f"{NEEDS}needs a side whose stages begin with a convolution, such as fcn4; {type(side).__name__} "
            "has others. Leave out --learner.form"
        )
    return convs


def _adapter(first: nn.Conv2d, channels: int) -> nn.Sequential:
    last = nn.Conv2d(channels, channels, 1, bias=False)
    return nn.Sequential(Scale(), first, nn.GroupNorm(gcd(2, channels), channels), nn.ReLU(), last)


def _like(conv: nn.Conv2d) -> nn.Conv2d:
    """A new convolution of the same sizes, without bias."""
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        bias=False,
    )


def _ratio(source: int, target: int) -> int:
    return max(1, round(source / target))
