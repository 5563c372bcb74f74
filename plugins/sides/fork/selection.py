"""Where a fork begins, and which blocks of the base it keeps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

import numpy as np

from sidetune_core.api import Base, Block, FitError, Shape, select_blocks

LARGEST_PART = 3
"""A fork whose tap is not chosen costs at most the base's cost divided by this."""


def taps_to_try(base: Base, blocks: Sequence[Block], after: int | None) -> Sequence[int]:
    """The taps that a fork may read, the best first.

    Args:
        base: has them.
        blocks: of the base.
        after: the index of the only one, from the last if negative. None for those after which the blocks
            cost at most a third of all, the first of these first; then all others, the last first.

    Raises:
        FitError: the base has no such tap.
    """
    count = len(base.tap_shapes)
    if not count:
        raise FitError(f"side 'fork' needs a base with taps; {type(base).__name__} has none")
    if after is not None:
        if not -count <= after < count:
            raise FitError(
                f"side 'fork': {type(base).__name__} has no tap {after} (--side.after); it has {count}, "
                f"numbered 0 to {count - 1}, or -{count} to -1"
            )
        return [after % count]
    costs = [_cost(base, block) for block in blocks]
    rest = [
        sum(cost for cost, block in zip(costs, blocks, strict=True) if block.after >= tap)
        for tap in range(count)
    ]
    cheap = [tap for tap, cost in enumerate(rest) if 0 < LARGEST_PART * cost <= sum(costs)]
    others = [tap for tap in reversed(range(count)) if tap not in cheap]
    return [*cheap, *sorted(others, key=lambda tap: rest[tap] == 0)]


def _cost(base: Base, block: Block) -> int:
    """Multiply-adds of a block: its weights, each used once at every position of the next tap.

    This is exact for convolutions and linear layers without a change of resolution within the block.
    """
    weights = sum(
        weight.numel()
        for name, weight in base.named_parameters()
        if name == block.name or name.startswith(f"{block.name}.")
    )
    shapes = (*base.tap_shapes, base.shape)
    return weights * _positions(shapes[min(block.after + 1, len(shapes) - 1)])


def _positions(shape: Shape) -> int:
    """Number of positions of a map (C, H, W) or a sequence (L, C); 1 for (C,)."""
    return prod(shape[1:] if len(shape) == 3 else shape[:-1])


def choose_blocks(
    blocks: Sequence[Block], taps: int, tap: int, chosen: Sequence[int]
) -> Collection[int] | None:
    """Numbers of the blocks that a fork keeps; None for all.

    Args:
        blocks: of the base.
        taps: number of its taps.
        tap: where the fork begins.
        chosen: none for all; several numbers; or one, the count of blocks, which are spread evenly over those
            after the tap, with all that cannot be left out.

    Raises:
        FitError: there are no such blocks, or one is left out that is not optional.
    """
    following = [number for number, block in enumerate(blocks) if block.after >= tap]
    needed = [number for number in following if not blocks[number].optional]
    if not chosen:
        return None
    if len(set(chosen)) < len(chosen):
        raise FitError(f"side 'fork': --side.blocks names a block twice: {' '.join(map(str, chosen))}")
    if len(chosen) == 1:
        return _spread(following, needed, chosen[0], tap)
    try:
        return sorted(select_blocks(blocks, taps, tap, chosen))
    except FitError as error:
        raise FitError(
            f"side 'fork': {error} (--side.blocks{_of_which(needed)}); --side.after chooses another tap"
        ) from error


def _spread(following: Sequence[int], needed: Sequence[int], count: int, tap: int) -> Sequence[int]:
    """The numbers of `count` blocks at equal distances, the first and the last included, with those that
    are needed."""
    least = max(1, len(needed))
    if not following:
        raise FitError(f"side 'fork': no block follows tap {tap}, so leave out --side.blocks")
    if not least <= count <= len(following):
        raise FitError(
            f"side 'fork': --side.blocks {count} is a number of blocks; tap {tap} has {len(following)} after "
            f"it{_of_which(needed)}; choose {least} to {len(following)}, or several of the blocks "
            f"{following[0]} to {following[-1]}"
        )
    picked = {following[round(place)] for place in np.linspace(0, len(following) - 1, count)}
    for number in needed:
        if number not in picked:
            spare = picked.difference(needed)
            picked.remove(min(spare, key=lambda other: (abs(other - number), other)))
            picked.add(number)
    return sorted(picked)


def _of_which(needed: Sequence[int]) -> str:
    return f"; not optional: {', '.join(map(str, needed))}" if needed else "; all are optional"
