"""Rows of tensors by example id: in memory, or in files that are mapped and not read, so that they may be larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor

from sidetune_core.errors import WeightsError
from sidetune_core.storage.weights import read_tensors, write_tensors

MIN_BLOCK_ROWS, MAX_SHARD_ROWS = 256, 2**16
"""Rows that the first block in memory has room for, and one on its way to disk."""

MAX_BLOCK_BYTES, MAX_SHARD_BYTES = 2**28, 2**26
"""About how many bytes such blocks have room for at most; their pages are taken up as they are filled."""


@attrs.define(eq=False)
class Block:
    """Room for consecutive rows, the first of them number `first`.

    A column is ``(room, *shape)``; one of sequences without their padding, whose number is in `ragged`, is ``(positions, *rest)``, and
    has ``lengths[row]`` positions from ``starts[row]`` on for each row.
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
        """Room for `room` rows like those of `columns`; for `ragged` ones as many positions as rows of these lengths would have."""
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
        """Whether rows of these lengths have room."""
        if self.count + len(lengths) > len(self.ids):
            return False
        return all(self.positions + int(lengths.sum()) <= len(self.columns[k]) for k in self.ragged)

    def append(self, ids: Tensor, columns: Sequence[Tensor], lengths: Tensor) -> None:
        """Take in rows (n, *shape) that fit."""
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
        """Rows (counted from this block's first) of one column; sequences with zeros after their end, `width` positions in all."""
        column = self.columns[number]
        if number not in self.ragged:
            return column[rows.to(column.device)].to(device)
        real = _real(self.lengths[rows], width)
        places = (self.starts[rows, None] + torch.arange(width))[real]
        out = column.new_zeros(len(rows), width, *column.shape[1:], device=device)
        out[real.to(device)] = column[places.to(column.device)].to(device)
        return out

    def filled(self) -> list[Tensor]:
        """The columns without the room that is left."""
        return [
            column[: self.positions if k in self.ragged else self.count]
            for k, column in enumerate(self.columns)
        ]


class RowTable:
    """Rows of several columns by example id, each written once.

    Args:
        folder: where blocks are kept as files for later runs; None for memory only.
        reserve: whether so many more bytes may be held (see `features.FeatureStore.reserve`).
        say: told if the folder cannot be written; then what comes is kept in memory.
    """

    def __init__(
        self, folder: Path | None, reserve: Callable[[int], bool], info: Callable[[str], None]
    ) -> None:
        self._folder, self._reserve, self._info = folder, reserve, info
        self._index = torch.full((0,), -1)  # of each id, the number of its row
        self._blocks: list[Block] = []
        self._open: Block | None = None  # the last of them, if there may be room in it
        self._count = 0
        self.bytes = 0
        """Held in memory and on disk."""
        if folder is not None and folder.is_dir():
            for path in sorted(folder.glob("*.safetensors")):
                self._map(path)

    def find(self, ids: Tensor) -> Tensor:
        """The number of each id's row, -1 where there is none."""
        self._grow_index(ids)
        return self._index[ids]

    def read(self, rows: Tensor, width: int, device: torch.device) -> list[Tensor]:
        """The columns of some rows, (n, *shape); sequences are `width` long, with zeros after their end."""
        firsts = torch.tensor([block.first for block in self._blocks])
        which = torch.bucketize(rows, firsts, right=True) - 1
        used = torch.unique(which).tolist()
        if len(used) == 1:
            block = self._blocks[used[0]]
            return [block.read(k, rows - block.first, width, device) for k in range(len(block.columns))]
        out: list[Tensor] = []
        for number in used:
            block, mine = self._blocks[number], which == number
            for k in range(len(block.columns)):
                values = block.read(k, rows[mine] - block.first, width, device)
                if k == len(out):
                    out.append(values.new_empty(len(rows), *values.shape[1:]))
                out[k][mine.to(device)] = values
        return out

    def append(self, ids: Tensor, columns: Sequence[Tensor], lengths: Tensor, ragged: frozenset[int]) -> None:
        """Remember rows (n, *shape) of new, distinct ids, unless the limit is reached; of the columns in `ragged`, `lengths` positions."""
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
        self._open.append(ids, columns, lengths)
        self._take(ids)

    def save(self) -> None:
        """Write what is new to a file of its own, and map that instead. A disk that is full stops no run."""
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
            self._info(f"cannot write the feature store to {path}, so it is kept in memory only: {error}")
            self._folder = None
            return
        self._open = None
        mapped = _read(path, block.first)
        if mapped is not None:
            self._blocks[-1] = mapped

    def _map(self, path: Path) -> None:
        """Serve the rows of a file as well. One that is damaged is no loss: its rows are made again."""
        block = _read(path, self._count)
        if block is None:
            return
        new = self.find(block.ids) < 0
        size = sum(column.nbytes for column in block.columns)
        if new.any() and self._reserve(size):
            self.bytes += size
            self._blocks.append(block)
            self._take(block.ids, new)

    def _take(self, ids: Tensor, new: Tensor | None = None) -> None:
        """Point from `ids`, or those that are `new`, to the last rows."""
        self._grow_index(ids)
        numbers = torch.arange(self._count, self._count + len(ids))
        self._index[ids if new is None else ids[new]] = numbers if new is None else numbers[new]
        self._count += len(ids)

    def _grow_index(self, ids: Tensor) -> None:
        highest = int(ids.max()) + 1
        if highest > len(self._index):
            grown = torch.full((2 ** (highest - 1).bit_length(),), -1)
            grown[: len(self._index)] = self._index
            self._index = grown


def _real(lengths: Tensor, width: int) -> Tensor:
    """(n, width), which positions of sequences are not padding."""
    return torch.arange(width) < lengths[:, None]


def _read(path: Path, first: int) -> Block | None:
    """The rows of a file, mapped; None if it is damaged."""
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
    if not columns or not len(ids) or len(lengths) != len(ids) or int(ids.min()) < 0 or not whole:
        return None
    return Block(first, ids, lengths, columns, ragged, len(ids), int(lengths.sum()))
