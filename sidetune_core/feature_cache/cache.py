"""The feature cache: a frozen base encodes each example once.

Side-tuning never changes its base, so the base's features of an unchanged input can be reused: in all epochs
of a task, in evaluations after later tasks and, on disk, in later runs. The hook is `Base.__call__`:
learners, sides and envs do not know about the cache.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.feature_cache.row_table import RowTable
from sidetune_core.hashing import fingerprint
from sidetune_core.interfaces.inputs import Features, Inputs
from sidetune_core.interfaces.networks import Base

GIB = 2**30

MIN_BATCH = 16
"""Smallest number of examples that are computed together where the cache is full."""

LAYOUT = "2"
"""Version of the file format; files of other versions are ignored."""


@attrs.define(eq=False)
class FeatureCache:
    """Features of frozen bases by example id, in at most `limit` bytes for all bases together.

    Beyond the limit, cached features stay in use and all others are computed at every visit; `info` is called
    once.

    Args:
        limit: maximum size in bytes.
        keep_taps: cache the taps too; without it `Features.taps` is empty.
        info: shows a line to the user.
        folder: where tables are stored for later runs; None for memory only.
        data: fingerprint of the data and its transforms, part of the key on disk; empty to keep tables in
            memory.
    """

    limit: int
    keep_taps: bool
    info: Callable[[str], None]
    folder: Path | None = None
    data: str = ""
    used: int = 0
    _tables: dict[str, Table] = attrs.field(factory=dict, init=False)
    full: bool = attrs.field(default=False, init=False)

    def attach(self, module: nn.Module, arithmetic: str) -> None:
        """Serve every frozen base in `module`, and no other. `arithmetic` is the precision of its outputs, a
        part of the key.
        """
        for base in _bases(module):
            frozen = not base.training and not any(parameter.requires_grad for parameter in base.parameters())
            base.cache = self._table(base, arithmetic) if frozen else None
        served = {id(base.cache) for base in _bases(module)}
        for key, table in list(self._tables.items()):
            if id(table) not in served:  # a teacher of an earlier task, or weights that have changed
                table.rows.save()
                self.used -= table.bytes
                del self._tables[key]

    @staticmethod
    def detach(module: nn.Module) -> None:
        """Serve no base in `module` any more."""
        for base in _bases(module):
            base.cache = None

    def reserve(self, size: int) -> bool:
        """Reserve `size` bytes; returns whether they fit into the limit."""
        if self.used + size > self.limit:
            if not self.full:
                self.full = True
                self.info(
                    f"the feature cache is full ({self.limit / GIB:.3g} GiB): further features are computed "
                    "at every visit; --cache.limit sets the limit"
                )
            return False
        self.used += size
        return True

    def save(self) -> None:
        """Write new features to disk."""
        for table in self._tables.values():
            table.rows.save()

    def _table(self, base: Base, arithmetic: str) -> Table:
        names = [_identity(base), self.data, arithmetic, str(self.keep_taps), LAYOUT]
        key = hashlib.sha256("/".join(names).encode()).hexdigest()
        if key not in self._tables:
            folder = self.folder / key[:40] if self.folder and self.data else None
            self._tables[key] = Table(self, RowTable(folder, self.reserve, self.info), arithmetic)
        return self._tables[key]


class Table:
    """The cached features of one base."""

    def __init__(self, cache: FeatureCache, rows: RowTable, arithmetic: str) -> None:
        self._cache, self.rows, self._arithmetic = cache, rows, arithmetic
        self._rings: dict[int, RingCache] = {}

    @property
    def bytes(self) -> int:
        """Size in memory and on disk."""
        return self.rows.bytes + sum(ring.bytes for ring in self._rings.values())

    def lookup(self, base: Base, inputs: Inputs) -> Features:
        """The features of a batch; those that are not cached are computed.

        Where any are missing the whole batch is computed, or at least `MIN_BATCH` examples of it where the
        cache is full, because the last bits of an output may depend on the number of examples that are
        computed together. Measured on an AVX-512 CPU: for convolutions they do for a single example, for
        linear layers for up to four, in fp32 for both, and never on which examples they are. So features have
        the same bits whatever was cached before, and a run that is resumed with an empty cache ends with the
        bytes of an uninterrupted one. There are two exceptions, in which this holds only with the cache off:
        linear layers of odd widths, such as 17 to 3, round by the position in the batch, and the padding of
        sequences (`Inputs.lengths`) depends on their batch.
        """
        assert inputs.ids is not None
        ids = inputs.ids.cpu()
        if inputs.window is not None:
            ring = self._rings.setdefault(inputs.window, RingCache(inputs.window, self._cache))
            return self._as_served(ring.lookup(ids, inputs, lambda: self._compute(base, inputs)), inputs)
        rows = self.rows.find(ids)
        unknown = rows < 0
        if not unknown.any():
            return self._read(rows, inputs)
        fresh = self._compute_some(base, inputs, unknown)
        self._remember(
            base, ids[unknown], fresh, None if inputs.lengths is None else inputs.lengths.cpu()[unknown]
        )
        if unknown.all():
            return fresh
        known = self._read(rows[~unknown], inputs)
        some = unknown.to(fresh.encoding.device)
        return Features(
            _interleave(some, fresh.encoding, known.encoding),
            tuple(_interleave(some, new, old) for new, old in zip(fresh.taps, known.taps, strict=True)),
        )

    def _compute(self, base: Base, inputs: Inputs) -> Features:
        with torch.no_grad():
            features: Features = nn.Module.__call__(base, inputs)
        return self._as_served([features.encoding, *(features.taps if self._cache.keep_taps else ())], inputs)

    def _compute_some(self, base: Base, inputs: Inputs, wanted: Tensor) -> Features:
        """The features of the examples that are `wanted` (B,), computed together with others of the batch."""
        chosen = torch.ones_like(wanted)
        if self._cache.full:
            lacking = max(0, MIN_BATCH - int(wanted.sum()))
            chosen = wanted.index_fill(0, (~wanted).nonzero()[:lacking, 0], True)
        features = self._compute(base, inputs if chosen.all() else _select(inputs, chosen))
        if wanted.all():
            return features
        rows = wanted[chosen].to(features.encoding.device)
        return Features(features.encoding[rows], tuple(tap[rows] for tap in features.taps))

    def _read(self, rows: Tensor, inputs: Inputs) -> Features:
        first = next(iter(inputs.values()))
        width = first.shape[1] if inputs.lengths is not None else 0
        return self._as_served(self.rows.read(rows, width, first.device), inputs)

    def _as_served(self, columns: Sequence[Tensor], inputs: Inputs) -> Features:
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
        encoding, *taps = columns
        return Features(encoding, tuple(taps))

    def _remember(self, base: Base, ids: Tensor, fresh: Features, lengths: Tensor | None) -> None:
        columns: list[Tensor] = [fresh.encoding, *fresh.taps]
        first = _first_of_each(ids)
        if len(first) < len(ids):  # an example comes twice where one epoch ends and the next begins
            ids, columns = ids[first], [values[first.to(values.device)] for values in columns]
            lengths = None if lengths is None else lengths[first]
        shapes = [base.shape, *base.tap_shapes][: len(columns)]
        ragged = frozenset(k for k, shape in enumerate(shapes) if len(shape) == 2 and lengths is not None)
        self.rows.append(ids, columns, torch.ones_like(ids) if lengths is None else lengths, ragged)


class RingCache:
    """The cached features of the latest `window` frames of an endless stream (see `Inputs.window`), never on
    disk.

    The features of frame i are in row ``i % window``; `frames[row]` is the id of the frame in a row, or -1.
    """

    def __init__(self, window: int, cache: FeatureCache) -> None:
        self._cache = cache
        self._frames = torch.full((window,), -1)
        self._columns: list[Tensor] = []  # the encoding, then the taps: (window, *shape)
        self.bytes = 0
        """Size in memory."""

    def lookup(self, ids: Tensor, inputs: Inputs, compute: Callable[[], Features]) -> list[Tensor]:
        """The encoding and taps of a batch. Where any are missing, all are computed, in place of older
        frames.
        """
        rows = ids % len(self._frames)
        if torch.equal(self._frames[rows], ids):
            device = next(iter(inputs.values())).device
            return [column[rows.to(column.device)].to(device) for column in self._columns]
        fresh = compute()
        values = [fresh.encoding, *fresh.taps]
        if not self._columns:
            size = sum(one[0].nbytes for one in values) * len(self._frames)
            if not self._cache.reserve(size):
                return values
            self.bytes = size
            self._columns = [one.new_empty(len(self._frames), *one.shape[1:]) for one in values]
        for column, one in zip(self._columns, values, strict=True):
            column[rows.to(column.device)] = one
        self._frames[rows] = ids
        return values


def _bases(module: nn.Module) -> list[Base]:
    return [one for one in module.modules() if isinstance(one, Base)]


def _identity(base: Base) -> str:
    """What the features of an input depend on: the base's code, settings and weights, the device and
    PyTorch's version.

    Bases with equal weights and different options differ in plain attributes of a module, such as a stride.
    Of the code, the files that define the classes of the modules count; what they import does not.
    """
    ours = set(vars(nn.Module())) | {"cache"}
    settings = [
        (name, type(module).__module__, type(module).__qualname__, key, repr(value))
        for name, module in base.named_modules()
        for key, value in sorted(vars(module).items())
        if key not in ours and _is_plain(value)
    ]
    numbers = dict(base.named_parameters()) | dict(base.named_buffers())
    devices = sorted({number.device.type for number in numbers.values()})
    return f"{settings}/{_code(base)}/{fingerprint(numbers)}/{devices}/{torch.__version__}"


def _code(base: Base) -> str:
    """A digest of the files that define the classes of a base's modules, without those of PyTorch."""
    classes = {
        cls
        for module in base.modules()
        for cls in type(module).__mro__
        if not cls.__module__.startswith(("torch.", "builtins"))
    }
    files = {getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in classes}
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file and Path(file).is_file()):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    """Whether a value is determined by its printed form."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return (
        value is None or isinstance(value, bool | int | float | str | torch.dtype) or attrs.has(type(value))
    )


def _select(inputs: Inputs, chosen: Tensor) -> Inputs:
    """The chosen examples of a batch."""
    lengths = None if inputs.lengths is None else inputs.lengths[chosen.to(inputs.lengths.device)]
    return Inputs(
        {name: tensor[chosen.to(tensor.device)] for name, tensor in inputs.items()}, lengths=lengths
    )


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
