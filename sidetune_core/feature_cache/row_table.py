"""Rows of tensors by example id, in memory or in memory-mapped files, which may be larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import torch
from torch import Tensor

from sidetune_core.errors import WeightsError
from sidetune_core.feature_cache.id_index import IdIndex
from sidetune_core.storage.atomic import clear_unfinished
from sidetune_core.storage.weights import read_tensors, write_tensors

MIN_BLOCK_ROWS, MAX_SHARD_ROWS = 256, 2**16
"""Capacity in rows of the first block in memory, and of a block that is written to disk."""

MAX_BLOCK_BYTES, MAX_SHARD_BYTES = 2**28, 2**26
"""Approximate maximum size of such blocks in bytes; pages are allocated as they are filled."""

UNFINISHED_SECONDS = 3600.0
"""Age of a temporary file from which on the process that was writing it must have been killed."""


@attrs.define(eq=False)
class Block:
    """Consecutive rows, the first of which is row number `first` of the table.

    A column is ``(capacity, *shape)``. A column of sequences without padding, whose index is in `ragged`, is
    ``(positions, *rest)``; row r has ``lengths[r]`` positions from ``starts[r]`` on.
    """

    first: int
    ids: Tensor
    lengths: Tensor
    columns: list[Tensor]
    ragged: frozenset[int]
    count: int = 0
    positions: int = 0
    starts: Tensor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.starts = self.lengths.cumsum(0) - self.lengths

    @classmethod
    def empty(
        cls, first: int, room: int, columns: Sequence[Tensor], lengths: Tensor, ragged: frozenset[int]
    ) -> Block:
        """Capacity for `room` rows like those of `columns`, with as many positions as rows of these `lengths`
        have.
        """
        positions = -(-int(lengths.sum()) * room // len(lengths))
        columns = [
            column.new_empty(positions, *column.shape[2:])
            if k in ragged
            else column.new_empty(room, *column.shape[1:])
            for k, column in enumerate(columns)
        ]
        return cls(
            first, torch.zeros(room, dtype=torch.int64), torch.zeros(room, dtype=torch.int64), columns, ragged
        )

    def fits(self, lengths: Tensor) -> bool:
        """Whether rows of these lengths fit."""
        if self.count + len(lengths) > len(self.ids):
            return False
        return all(self.positions + int(lengths.sum()) <= len(self.columns[k]) for k in self.ragged)

    def append(self, ids: Tensor, columns: Sequence[Tensor], lengths: Tensor) -> None:
        """Append rows (n, *shape) that fit."""
        end, reach = self.count + len(ids), self.positions + int(lengths.sum())
        for k, (column, values) in enumerate(zip(self.columns, columns, strict=True)):
            if k in self.ragged:
                column[self.positions : reach] = values[_real(lengths, values.shape[1]).to(values.device)]
            else:
                column[self.count : end] = values
        self.ids[self.count : end], self.lengths[self.count : end] = ids, lengths
        self.starts[self.count : end] = self.positions + lengths.cumsum(0) - lengths
        self.count, self.positions = end, reach

    def read(self, number: int, rows: Tensor, width: int, device: torch.device) -> Tensor:
        """Rows of one column, counted from the first of this block; sequences are zero-padded to `width`
        positions.
        """
        column = self.columns[number]
        if number not in self.ragged:
            return column.index_select(0, rows.to(column.device)).to(device)  # copies whole rows
        real = _real(self.lengths[rows], width)
        places = (self.starts[rows, None] + torch.arange(width))[real]
        out = column.new_zeros(len(rows), width, *column.shape[1:], device=device)
        out[real.to(device)] = column[places.to(column.device)].to(device)
        return out

    def filled(self) -> list[Tensor]:
        """The columns without unused capacity."""
        return [
            column[: self.positions if k in self.ragged else self.count]
            for k, column in enumerate(self.columns)
        ]


class RowTable:
    """Rows of several columns by example id, each written once.

    Args:
        folder: where blocks are stored as files for later runs; None for memory only.
        reserve: reserves bytes; returns whether they fit (see `FeatureCache.reserve`).
        info: shows a line to the user.
    """

    def __init__(
        self, folder: Path | None, reserve: Callable[[int], bool], info: Callable[[str], None]
    ) -> None:
        self._folder, self._reserve, self._info = folder, reserve, info
        self._index = IdIndex()
        self._blocks: list[Block] = []
        self._firsts: Tensor | None = None  # the first row of each block; None where it is out of date
        self._open: Block | None = None  # the last block, while it accepts rows
        self._count = 0
        self._known: set[str] = set()  # names of the files that were read or written
        self.bytes = 0
        """Size in memory and on disk."""
        if folder is not None and folder.is_dir():
            with suppress(OSError):  # it may be read-only
                clear_unfinished(folder, older_than=UNFINISHED_SECONDS)
            self.reload()
        self.stored = self._count
        """Rows with lower numbers were in the files when the table was opened."""

    @property
    def folder(self) -> Path | None:
        """Where blocks are stored."""
        return self._folder

    @property
    def stored_blocks(self) -> list[Block]:
        """The blocks that were in the files when the table was opened."""
        return [block for block in self._blocks if block.first < self.stored]

    def find(self, ids: Tensor) -> Tensor:
        """The row number of each id, -1 for an unknown one."""
        return self._index.find(ids)

    def block_numbers(self, rows: Tensor) -> Tensor:
        """The number (n,) of the block that holds each of the rows (n,), counted from the first block of
        all."""
        if self._firsts is None:
            self._firsts = torch.tensor([block.first for block in self._blocks])
        return torch.bucketize(rows, self._firsts, right=True) - 1

    def blocks_of(self, rows: Tensor) -> Iterator[tuple[Block, Tensor]]:
        """The blocks that hold some of the rows (n,), each with a mask (n,) of its own."""
        which = self.block_numbers(rows)
        for number in torch.unique(which).tolist():
            yield self._blocks[number], which == number

    def read(self, rows: Tensor, width: int, device: torch.device) -> list[Tensor]:
        """The columns of rows, (n, *shape); sequences are zero-padded to `width`."""
        which, order = self.block_numbers(rows).sort(stable=True)
        numbers, counts = torch.unique_consecutive(which, return_counts=True)
        blocks = [self._blocks[number] for number in numbers.tolist()]
        parts = torch.split(rows[order], counts.tolist())
        position = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order))).to(device)
        out = []
        for k in range(len(blocks[0].columns)):
            read = [
                block.read(k, part - block.first, width, device)
                for block, part in zip(blocks, parts, strict=True)
            ]
            out.append(read[0] if len(blocks) == 1 else torch.cat(read).index_select(0, position))
        return out

    def append(self, ids: Tensor, columns: Sequence[Tensor], lengths: Tensor, ragged: frozenset[int]) -> None:
        """Append rows (n, *shape) of new, distinct ids if the limit allows; of `ragged` columns, the first
        `lengths` positions.
        """
        positions = int(lengths.sum())
        per_position = sum(columns[k][0, 0].nbytes for k in ragged)
        per_row = sum(column[0].nbytes for k, column in enumerate(columns) if k not in ragged)
        size = per_row * len(ids) + per_position * positions
        if not self._reserve(size):
            return
        self.bytes += size
        if self._open is None or not self._open.fits(lengths):
            self.save()
            rows, most = (
                (MAX_SHARD_ROWS, MAX_SHARD_BYTES)
                if self._folder
                else (max(MIN_BLOCK_ROWS, self._count), MAX_BLOCK_BYTES)
            )
            room = max(len(ids), min(rows, most * len(ids) // max(size, 1)))
            self._open = Block.empty(self._count, room, columns, lengths, ragged)
            self._blocks.append(self._open)
            self._firsts = None
        self._open.append(ids, columns, lengths)
        self._take(ids)

    def reload(self) -> None:
        """Map the files that other processes have written since the last call."""
        if self._folder is None or not self._folder.is_dir():
            return
        self.save()
        for path in sorted(self._folder.glob("*.safetensors")):
            if path.name not in self._known:
                self._known.add(path.name)
                self._map(path)

    def save(self) -> None:
        """Write the open block to a file and map it. A full disk does not stop the run."""
        block = self._open
        if self._folder is None or block is None:
            return
        ids = block.ids[: block.count]
        kinds = [("ragged" if k in block.ragged else "column") + str(k) for k in range(len(block.columns))]
        path = self._folder / f"{hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:40]}.safetensors"
        try:
            write_tensors(
                path,
                {
                    "ids": ids,
                    "lengths": block.lengths[: block.count],
                    **dict(zip(kinds, block.filled(), strict=True)),
                },
            )
        except OSError as error:
            self._info(f"cannot write the feature cache to {path}, it is kept in memory only: {error}")
            self._folder = None
            return
        self._open = None
        self._known.add(path.name)
        mapped = _read(path, block.first)
        if mapped is not None:
            self._blocks[-1] = mapped

    def drop_stored(self) -> int:
        """Ignore the rows that were in the files, and write none to their folder; returns their bytes."""
        dropped = self.stored_blocks
        freed = sum(column.nbytes for block in dropped for column in block.columns)
        self._blocks, self._firsts = self._blocks[len(dropped) :], None
        self._index.remove_before(self.stored)
        self._folder, self.stored = None, 0
        self.bytes -= freed
        return freed

    def _map(self, path: Path) -> None:
        """Add the rows of a file. A damaged one is ignored: its rows are computed again."""
        block = _read(path, self._count)
        if block is None:
            return
        new = self.find(block.ids) < 0
        size = sum(column.nbytes for column in block.columns)
        if new.any() and self._reserve(size):
            self.bytes += size
            self._blocks.append(block)
            self._firsts = None
            self._take(block.ids, new)

    def _take(self, ids: Tensor, new: Tensor | None = None) -> None:
        """Index the last rows by `ids`, or by those that are `new`."""
        numbers = torch.arange(self._count, self._count + len(ids))
        if new is None:
            self._index.add(ids, numbers)
        else:
            self._index.add(ids[new], numbers[new])
        self._count += len(ids)


def _real(lengths: Tensor, width: int) -> Tensor:
    """(n, width), True where a position is not padding."""
    return torch.arange(width) < lengths[:, None]


def _read(path: Path, first: int) -> Block | None:
    """The rows of a memory-mapped file; None if it is damaged."""
    try:
        tensors = read_tensors(path)
        ids, lengths = tensors.pop("ids"), tensors.pop("lengths")
        names = sorted(tensors, key=lambda name: int(name[6:]))
        columns = [tensors[name] for name in names]
        ragged = frozenset(k for k, name in enumerate(names) if name == f"ragged{k}")
        whole = all(
            len(column) == (int(lengths.sum()) if k in ragged else len(ids))
            for k, column in enumerate(columns)
        )
    except (WeightsError, KeyError, ValueError):
        return None
    if not columns or not len(ids) or len(lengths) != len(ids) or not whole:
        return None
    return Block(first, ids, lengths, columns, ragged, len(ids), int(lengths.sum()))
