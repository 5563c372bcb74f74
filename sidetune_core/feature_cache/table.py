"""The cached features of one base: looked up, computed where they are missing, and checked where they come
from files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sidetune_core.feature_cache.ring import RingCache
from sidetune_core.feature_cache.row_table import RowTable
from sidetune_core.feature_cache.spot_check import SpotCheck, agree
from sidetune_core.feature_cache.taps import Taps
from sidetune_core.interfaces.inputs import Features, Inputs
from sidetune_core.interfaces.networks import Base
from sidetune_core.seeding import random_states, set_random_states

if TYPE_CHECKING:
    from sidetune_core.feature_cache.cache import FeatureCache

MIN_BATCH = 16
"""Smallest number of examples that are computed together where the cache is full."""

ROUNDED_ALIKE = 5
"""Number of examples from which on rounding does not depend on it."""


class Table:
    """The cached features of one base, as columns: the encoding, and the taps that are cached."""

    def __init__(self, cache: FeatureCache, key: str, arithmetic: str, taps: Taps) -> None:
        self._cache, self._key, self._arithmetic, self._taps = cache, key, arithmetic, taps
        self._rows: dict[str, StoredRows] = {}
        self._rings: dict[int, RingCache] = {}

    @property
    def bytes(self) -> int:
        """Size in memory and on disk."""
        tables = (stored.table.bytes for stored in self._rows.values())
        return sum(tables) + sum(ring.bytes for ring in self._rings.values())

    def save(self) -> None:
        """Write new features to disk."""
        for stored in self._rows.values():
            stored.table.save()

    def reload(self) -> None:
        """Find new files of other processes."""
        for stored in self._rows.values():
            stored.table.reload()

    def lookup(self, base: Base, inputs: Inputs) -> Features:
        """The features of a batch; those that are not cached are computed.

        Where any are missing the whole batch is computed, or at least `MIN_BATCH` examples of it where the
        cache is full, because the last bits of an output may depend on the number of examples that are
        computed together. Measured on an AVX-512 CPU: for convolutions they do for a single example, for
        linear layers for up to four, in fp32 for both, and never on which examples they are. Fewer than
        `ROUNDED_ALIKE` examples are therefore repeated to as many. So features have the same bits whatever
        was cached before, and a run that is resumed with an empty cache ends with the
        bytes of an uninterrupted one. There are two exceptions, in which this holds only with the cache off:
        linear layers of odd widths, such as 17 to 3, round by the position in the batch, and the padding of
        sequences (`Inputs.lengths`) depends on their batch.
        """
        return self._taps.features(self._lookup(base, inputs))

    def _lookup(self, base: Base, inputs: Inputs) -> list[Tensor]:
        assert inputs.ids is not None
        ids, scope = inputs.ids.cpu().long(), self._scope(inputs)
        if inputs.window is not None:
            ring = self._rings.setdefault(inputs.window, RingCache(inputs.window, self._cache.reserve))
            columns = ring.lookup(ids, scope, inputs, lambda: self._compute(base, inputs))
            return self._as_served(columns, inputs)
        stored = self._open(scope)
        self._check_stored(base, inputs, ids, stored)
        table = stored.table
        rows = table.find(ids)
        unknown = rows < 0
        if not unknown.any():
            return self._read(table, rows, inputs)
        fresh = self._compute_some(base, inputs, unknown)
        lengths = None if inputs.lengths is None else inputs.lengths.cpu()[unknown]
        _remember(table, ids[unknown], fresh, lengths)
        if unknown.all():
            return fresh
        known = self._read(table, rows[~unknown], inputs)
        some = unknown.to(fresh[0].device)
        return [_interleave(some, new, old) for new, old in zip(fresh, known, strict=True)]

    def _scope(self, inputs: Inputs) -> str:
        """The namespace of a batch's ids."""
        shared = self._cache.shared_ids or inputs.task is None
        return "" if shared else f"task {inputs.task}"

    def _open(self, scope: str) -> StoredRows:
        """The rows of a namespace."""
        if scope not in self._rows:
            self._rows[scope] = StoredRows(self._cache.open_rows(self._key, scope))
        return self._rows[scope]

    def _check_stored(self, base: Base, inputs: Inputs, ids: Tensor, stored: StoredRows) -> None:
        """Compare a sample of the rows that came from files with recomputed ones; drop the files if they
        differ.
        """
        chosen = stored.check.choose(stored.table.find(ids)) if stored.check is not None else None
        if chosen is None:
            return
        with _unchanged_random_states():
            fresh = self._compute(base, _select(inputs, chosen))
        lengths = None if inputs.lengths is None else inputs.lengths.cpu()[chosen]
        rows, folder = stored.table.find(ids[chosen]), stored.table.folder
        if agree(stored.table, rows, fresh, lengths):
            return
        self._cache.release(stored.table.drop_stored())
        stored.check = None
        self._cache.warning(
            f"the feature cache in {folder} is ignored: features of {len(rows)} examples differ from those "
            "computed now. The likely cause is an env whose fingerprint() does not change with its data and "
            "transforms. Correct it, delete the folder, and repeat this run if it has read the folder before "
            "this line"
        )

    def _compute(self, base: Base, inputs: Inputs) -> list[Tensor]:
        with torch.no_grad():
            features: Features = nn.Module.__call__(base, inputs)
        return self._as_served(self._taps.columns(features), inputs)

    def _compute_some(self, base: Base, inputs: Inputs, wanted: Tensor) -> list[Tensor]:
        """The columns of the examples that are `wanted` (B,), computed together with others of the batch."""
        chosen = torch.ones_like(wanted)
        if self._cache.full:
            lacking = max(0, MIN_BATCH - int(wanted.sum()))
            chosen = wanted.index_fill(0, (~wanted).nonzero()[:lacking, 0], True)
        places = chosen.nonzero()[:, 0]
        if len(places) < ROUNDED_ALIKE:
            places = places.repeat(ROUNDED_ALIKE)[:ROUNDED_ALIKE]
        whole = chosen.all() and len(places) == len(wanted)
        columns = self._compute(base, inputs if whole else _select(inputs, places))
        if whole and wanted.all():
            return columns
        rows = wanted[chosen].nonzero()[:, 0].to(columns[0].device)
        return [column[rows] for column in columns]

    def _read(self, table: RowTable, rows: Tensor, inputs: Inputs) -> list[Tensor]:
        first = next(iter(inputs.values()))
        width = first.shape[1] if inputs.lengths is not None else 0
        return self._as_served(table.read(rows, width, first.device), inputs)

    def _as_served(self, columns: list[Tensor], inputs: Inputs) -> list[Tensor]:
        """Columns in the dtype and memory format that computed and cached features share: results depend on
        both.
        """
        if self._arithmetic == "bf16":
            columns = [column.bfloat16() if column.dtype == torch.float32 else column for column in columns]
        images = [value for value in inputs.values() if value.ndim == 4]
        if any(
            image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
            for image in images
        ):
            columns = [
                column.contiguous(memory_format=torch.channels_last) if column.ndim == 4 else column
                for column in columns
            ]
        return columns


class StoredRows:
    """The rows of a namespace, and which of those from files are checked."""

    def __init__(self, table: RowTable) -> None:
        self.table = table
        self.check = SpotCheck(table) if table.stored else None


def _remember(table: RowTable, ids: Tensor, columns: list[Tensor], lengths: Tensor | None) -> None:
    """Append computed columns to a table."""
    first = _first_of_each(ids)
    if len(first) < len(ids):  # an example comes twice where one epoch ends and the next begins
        ids, columns = ids[first], [values[first.to(values.device)] for values in columns]
        lengths = None if lengths is None else lengths[first]
    ragged = frozenset(k for k, column in enumerate(columns) if column.ndim == 3 and lengths is not None)
    table.append(ids, columns, torch.ones_like(ids) if lengths is None else lengths, ragged)


@contextmanager
def _unchanged_random_states() -> Iterator[None]:
    """Restore the states of the random generators after a block."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def _select(inputs: Inputs, chosen: Tensor) -> Inputs:
    """The chosen examples of a batch."""
    lengths = None if inputs.lengths is None else inputs.lengths[chosen.to(inputs.lengths.device)]
    tensors = {name: tensor[chosen.to(tensor.device)] for name, tensor in inputs.items()}
    return Inputs(tensors, lengths=lengths)


def _first_of_each(ids: Tensor) -> Tensor:
    """The index of the first occurrence of each distinct id, in order."""
    distinct, which = torch.unique(ids, return_inverse=True)
    first = torch.full((len(distinct),), len(ids)).scatter_reduce(0, which, torch.arange(len(ids)), "amin")
    return first.sort().values


def _interleave(where: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where `where` holds, rows of `old` elsewhere, in the memory format of `new`."""
    out = torch.empty_like(new[:1].expand(len(where), *new.shape[1:]), memory_format=_memory_format(new))
    out[where], out[~where] = new, old
    return out


def _memory_format(value: Tensor) -> torch.memory_format:
    """Convolutions round differently on the same numbers in another memory format."""
    channels_last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last and not value.is_contiguous() else torch.contiguous_format
