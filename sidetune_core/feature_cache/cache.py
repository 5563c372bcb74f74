"""The feature store: what a frozen base makes of an example is computed once and reused.

Side-tuning never changes its base, so the base's output on an input that does not change is worth remembering: over the passes of a
task, over evaluations after later tasks, and, on disk, over runs. The seam is `Base.__call__`: no learner, side or env knows.
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
"""Examples that are computed together at least."""

LAYOUT = "2"
"""Of the files on disk: others are not looked at."""


@attrs.define(eq=False)
class FeatureCache:
    """Outputs of frozen bases by example id, in memory that is bounded by `limit` bytes over all bases.

    When the limit is reached, outputs that are stored stay in use and all others are computed at every visit; `info` is told once.

    Args:
        limit: most bytes to hold.
        keep_taps: remember the taps too; without it, `Features.taps` is empty.
        say: told, once, that the limit was reached.
        folder: where tables are kept for later runs; None for memory only.
        data: fingerprint of the data and its transform, part of the key on disk; an empty one keeps tables off the disk.
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
        """Serve every base inside `module` that is frozen now, and no other; `arithmetic` names the precision that it computes in."""
        for base in _bases(module):
            frozen = not base.training and not any(parameter.requires_grad for parameter in base.parameters())
            base.cache = self._table(base, arithmetic) if frozen else None
        served = {id(base.cache) for base in _bases(module)}
        for key, table in list(self._tables.items()):
            if id(table) not in served:  # a teacher of the task before, or weights that have moved since
                table.rows.save()
                self.used -= table.bytes
                del self._tables[key]

    @staticmethod
    def detach(module: nn.Module) -> None:
        """Let every base inside `module` compute for itself again."""
        for base in _bases(module):
            base.cache = None

    def reserve(self, size: int) -> bool:
        """Whether `size` more bytes may be held; if so, they count as used."""
        if self.used + size > self.limit:
            if not self.full:
                self.full = True
                self.info(
                    f"the feature store is full ({self.limit / GIB:.3g} GiB): further outputs of the base are computed at every visit; "
                    "--cache.limit sets the limit"
                )
            return False
        self.used += size
        return True

    def save(self) -> None:
        """Write what is new to disk."""
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
    """The remembered outputs of one base."""

    def __init__(self, cache: FeatureCache, rows: RowTable, arithmetic: str) -> None:
        self._cache, self.rows, self._arithmetic = cache, rows, arithmetic
        self._rings: dict[int, RingCache] = {}

    @property
    def bytes(self) -> int:
        """Held in memory and on disk."""
        return self.rows.bytes + sum(ring.bytes for ring in self._rings.values())

    def lookup(self, base: Base, inputs: Inputs) -> Features:
        """The outputs for a batch, computing those that are not known yet (see `parts.Store`).

        Where any is unknown the whole batch is computed, and where the store is full at least `MIN_BATCH` of it, since the last bits of
        what a network makes of an example may depend on how many are computed with it. Measured on an AVX-512 CPU: for convolutional
        networks they do if it is alone, for linear layers if it is one of at most four, for fp32 both, and never on which others they
        are. So an output has the same bits whatever was known before, and a run that is resumed with an empty store ends with the bytes
        of one that never stopped. An exception are linear layers of odd widths, such as 17 to 3, which round by the place in the batch:
        there a resumed run is the same to the last bit with the store off only. So are sequences of several lengths (`Inputs.lengths`),
        for the padding of an example depends on its batch.
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
        """The outputs for the examples that are `wanted` (B,), computed with others of the batch."""
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
        """The columns in the type and the memory format that fresh and stored ones share, since arithmetic goes by both."""
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
        if len(first) < len(
            ids
        ):  # an example comes twice where one pass over the data ends and the next begins
            ids, columns = ids[first], [values[first.to(values.device)] for values in columns]
            lengths = None if lengths is None else lengths[first]
        shapes = [base.shape, *base.tap_shapes][: len(columns)]
        ragged = frozenset(k for k, shape in enumerate(shapes) if len(shape) == 2 and lengths is not None)
        self.rows.append(ids, columns, torch.ones_like(ids) if lengths is None else lengths, ragged)


class RingCache:
    """The remembered outputs for the latest `window` frames of a film (see `parts.Inputs`), never on disk.

    The output for frame i is in row ``i % window``; `frames[row]` is the frame whose output is there, or -1.
    """

    def __init__(self, window: int, cache: FeatureCache) -> None:
        self._cache = cache
        self._frames = torch.full((window,), -1)
        self._columns: list[Tensor] = []  # the encoding, then the taps: (window, *shape)
        self.bytes = 0
        """Held."""

    def lookup(self, ids: Tensor, inputs: Inputs, compute: Callable[[], Features]) -> list[Tensor]:
        """The encoding and the taps for a batch; where any is unknown, all are computed, and take the place of older ones."""
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
    """What decides a base's output for an input: its kind and code, the settings and the numbers in it, and what computes with them.

    Bases with equal weights and other options differ in the plain attributes of some module, such as a stride or the way of pooling.
    Of the code, the files that the classes of its modules stand in count, and not what those import.
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
    """A digest of the files that define the classes of a base's modules, without those of PyTorch (whose version is told)."""
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
    """Whether the printed form of a value is all there is to it."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return (
        value is None or isinstance(value, bool | int | float | str | torch.dtype) or attrs.has(type(value))
    )


def _select(inputs: Inputs, chosen: Tensor) -> Inputs:
    """Some examples of a batch, to be computed."""
    lengths = None if inputs.lengths is None else inputs.lengths[chosen.to(inputs.lengths.device)]
    return Inputs(
        {name: tensor[chosen.to(tensor.device)] for name, tensor in inputs.items()}, lengths=lengths
    )


def _first_of_each(ids: Tensor) -> Tensor:
    """Where each of the distinct `ids` comes first, in order."""
    distinct, which = torch.unique(ids, return_inverse=True)
    first = torch.full((len(distinct),), len(ids)).scatter_reduce(0, which, torch.arange(len(ids)), "amin")
    return first.sort().values


def _interleave(where: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where `where` holds, rows of `old` elsewhere, each in order."""
    out = new.new_empty(len(where), *new.shape[1:])
    out[where], out[~where] = new, old
    return out
