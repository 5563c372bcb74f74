"""Cached features of the latest frames of an endless stream."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sidetune_core.interfaces.inputs import Inputs


class RingCache:
    """The cached features of the latest `window` frames of an endless stream (see `Inputs.window`), never on
    disk.

    The features of frame i are in row ``i % window``; `frames[row]` is the id of the frame in a row, and
    `scopes[row]` the number of its namespace, or -1.

    Args:
        window: number of rows.
        reserve: reserves bytes; returns whether they fit (see `FeatureCache.reserve`).
    """

    def __init__(self, window: int, reserve: Callable[[int], bool]) -> None:
        self._reserve = reserve
        self._frames, self._scopes = torch.zeros(window, dtype=torch.int64), torch.full((window,), -1)
        self._numbers: dict[str, int] = {}
        self._columns: list[Tensor] = []  # the encoding, then the cached taps: (window, *shape)
        self.bytes = 0
        """Size in memory."""

    def lookup(
        self, ids: Tensor, scope: str, inputs: Inputs, compute: Callable[[], list[Tensor]]
    ) -> list[Tensor]:
        """The columns of a batch. Where any are missing, all are computed, in place of older
        frames.
        """
        rows = ids % len(self._frames)
        number = self._numbers.setdefault(scope, len(self._numbers))
        if torch.equal(self._frames[rows], ids) and bool((self._scopes[rows] == number).all()):
            device = next(iter(inputs.values())).device
            return [column[rows.to(column.device)].to(device) for column in self._columns]
        values = compute()
        if not self._columns:
            size = sum(one[0].nbytes for one in values) * len(self._frames)
            if not self._reserve(size):
                return values
            self.bytes = size
            self._columns = [one.new_empty(len(self._frames), *one.shape[1:]) for one in values]
        for column, one in zip(self._columns, values, strict=True):
            column[rows.to(column.device)] = one
        self._frames[rows], self._scopes[rows] = ids, number
        return values
