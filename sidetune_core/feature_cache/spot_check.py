"""Which rows of the files of a table are computed again, and whether they agree with what was stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sidetune_core.feature_cache.row_table import Block, RowTable

SAMPLE, FILE_SAMPLE = 8, 2
"""Largest number of rows of a check, and of one for the first use of a file alone."""

INTERVAL = 4
"""Ratio between the numbers of lookups at which two checks are due."""

TOLERANCE, HALF_TOLERANCE = 0.01, 0.05
"""Largest difference of features in 32 bits, and in 16: the root mean square over the sample, relative to the
norm of each example. Measured: bf16 changes features of built-in bases by up to 0.02; those of two images of
CIFAR-100 differ by 0.4 and more for most pairs, and those of an image that is 10 % darker by 0.05 and more.
"""


class SpotCheck:
    """Chooses rows: of each file when it is first used, and of the lookups number 1, 4, 16, … that use any
    file, so that the cost grows with the logarithm of a run's length.
    """

    def __init__(self, table: RowTable) -> None:
        self._table = table
        self._unseen = torch.ones(len(table.stored_blocks), dtype=torch.bool)
        """By number of a block."""
        self._lookups, self._next = 0, 1

    def choose(self, rows: Tensor) -> Tensor | None:
        """A mask (n,) over the rows of a lookup, where -1 is an unknown row; None if none are due."""
        stored = (rows >= 0) & (rows < self._table.stored)
        if not stored.any():
            return None
        self._lookups += 1
        numbers = self._table.block_numbers(rows[stored])
        new = torch.zeros_like(stored)
        new[stored] = self._unseen[numbers]
        scheduled = self._lookups == self._next
        if not (scheduled or new.any()):
            return None
        (candidates,) = (new if new.any() else stored).nonzero(as_tuple=True)
        size = SAMPLE if scheduled else FILE_SAMPLE
        chosen = torch.zeros_like(stored)
        chosen[candidates[:: max(1, len(candidates) // size)][:size]] = True
        if scheduled:
            self._next *= INTERVAL
        self._unseen[self._table.block_numbers(rows[chosen])] = False
        return chosen


def agree(table: RowTable, rows: Tensor, columns: Sequence[Tensor], lengths: Tensor | None) -> bool:
    """Whether stored rows (n,) equal computed columns (n, *shape) up to the rounding of other machines.

    `lengths` (n,) of sequences, or None.
    """
    return all(
        _block_agrees(
            block,
            rows[mine] - block.first,
            [column[mine.to(column.device)] for column in columns],
            None if lengths is None else lengths[mine],
        )
        for block, mine in table.blocks_of(rows)
    )


def _block_agrees(block: Block, rows: Tensor, columns: Sequence[Tensor], lengths: Tensor | None) -> bool:
    if len(columns) != len(block.columns):
        return False
    if block.ragged and (lengths is None or not torch.equal(block.lengths[rows], lengths)):
        return False
    for k, column in enumerate(columns):
        stored = block.read(k, rows, column.shape[1] if k in block.ragged else 0, column.device)
        if stored.shape != column.shape or stored.dtype != column.dtype or not _close(stored, column):
            return False
    return True


def _close(stored: Tensor, computed: Tensor) -> bool:
    """Whether rows (n, ...) agree; values that are not finite must be in the same places."""
    tolerance = TOLERANCE if computed.element_size() >= 4 else HALF_TOLERANCE
    first, second = (value.flatten(1).cpu().double() for value in (stored, computed))
    if not torch.equal(first.isfinite(), second.isfinite()):
        return False
    first, second = (value.nan_to_num(0, 0, 0) for value in (first, second))
    norms = torch.maximum(first.norm(dim=1), second.norm(dim=1)).clamp_min(torch.finfo(torch.float64).tiny)
    return float(((first - second).norm(dim=1) / norms).square().mean().sqrt()) <= tolerance
