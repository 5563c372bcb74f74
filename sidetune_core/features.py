"""The feature store: what a frozen base makes of an example is computed once and reused.

Side-tuning never changes its base, so the base's output on an input that does not change is worth remembering: over the passes of a
task, over evaluations after later tasks, and, on disk, over runs. The seam is `Base.__call__`: no learner, side or env knows.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.errors import WeightsError
from sidetune_core.parts import Base, Features, Inputs
from sidetune_core.weights import fingerprint, read_tensors, write_tensors

GIB = 2**30

FEWEST = 16
"""Examples that are computed together at least."""


@attrs.define(eq=False)
class FeatureStore:
    """Outputs of frozen bases by example id, in memory that is bounded by `limit` bytes over all bases.

    When the limit is reached, outputs that are stored stay in use and all others are computed at every visit; `say` is told once.

    Args:
        limit: most bytes to hold.
        keep_taps: remember the taps too; without it, `Features.taps` is empty.
        say: told, once, that the limit was reached.
        folder: where tables are kept for later runs; None for memory only.
        data: fingerprint of the data and its transform, part of the key on disk; an empty one keeps tables off the disk.
    """

    limit: int
    keep_taps: bool
    say: Callable[[str], None]
    folder: Path | None = None
    data: str = ""
    used: int = 0
    _tables: dict[str, Table] = attrs.field(factory=dict, init=False)
    full: bool = attrs.field(default=False, init=False)

    def attach(self, module: nn.Module, arithmetic: str) -> None:
        """Serve every base inside `module` that is frozen now, and no other; `arithmetic` names the precision that it computes in."""
        for base in _bases(module):
            frozen = not base.training and not any(parameter.requires_grad for parameter in base.parameters())
            base.store = self._table(base, arithmetic) if frozen else None

    @staticmethod
    def detach(module: nn.Module) -> None:
        """Let every base inside `module` compute for itself again."""
        for base in _bases(module):
            base.store = None

    def reserve(self, size: int) -> bool:
        """Whether `size` more bytes may be held; if so, they count as used."""
        if self.used + size > self.limit:
            if not self.full:
                self.full = True
                self.say(
                    f"the feature store is full ({self.limit / GIB:.3g} GiB): further outputs of the base are computed at every visit; "
                    "--train.store-limit sets the limit"
                )
            return False
        self.used += size
        return True

    def save(self) -> None:
        """Write what is new to disk."""
        for table in self._tables.values():
            table.save()

    def _table(self, base: Base, arithmetic: str) -> Table:
        names = [_identity(base), self.data, arithmetic, str(self.keep_taps)]
        key = hashlib.sha256("/".join(names).encode()).hexdigest()
        if key not in self._tables:
            path = self.folder / f"{key[:40]}.safetensors" if self.folder and self.data else None
            self._tables[key] = Table(self, path)
        return self._tables[key]


class Table:
    """The remembered outputs of one base. Rows grow in powers of two; `index[id]` is an example's row, or -1."""

    def __init__(self, store: FeatureStore, path: Path | None) -> None:
        self._store, self._path = store, path
        self._index = torch.full((0,), -1)
        self._columns: list[Tensor] = []  # the encoding, then the taps: (rows, *shape)
        self._count = 0
        self._saved = 0
        self._films: dict[int, Film] = {}
        if path is not None and path.is_file():
            self._load(path)

    def lookup(self, base: Base, inputs: Inputs) -> Features:
        """The outputs for a batch, computing those that are not known yet (see `parts.Store`).

        Where any is unknown the whole batch is computed, and where the store is full at least `FEWEST` of it, since the last bits of
        what a network makes of an example may depend on how many are computed with it. Measured on an AVX-512 CPU: for convolutional
        networks they do if it is alone, for linear layers if it is one of at most four, for fp32 both, and never on which others they
        are. So an output has the same bits whatever was known before, and a run that is resumed with an empty store ends with the bytes
        of one that never stopped. An exception are linear layers of odd widths, such as 17 to 3, which round by the place in the batch:
        there a resumed run is the same to the last bit with the store off only.
        """
        assert inputs.ids is not None
        ids = inputs.ids.cpu()
        if inputs.window is not None:
            film = self._films.setdefault(inputs.window, Film(inputs.window, self._store))
            return film.lookup(ids, inputs, lambda: self._compute(base, inputs))
        rows = self._rows(ids)
        unknown = rows < 0
        if not unknown.any():
            return self._read(rows, inputs)
        fresh = self._compute_some(base, inputs, unknown)
        self._remember(ids[unknown], fresh)
        if unknown.all():
            return fresh
        known = self._read(rows[~unknown], inputs)
        some = unknown.to(fresh.encoding.device)
        return Features(
            _interleave(some, fresh.encoding, known.encoding),
            tuple(_interleave(some, new, old) for new, old in zip(fresh.taps, known.taps, strict=True)),
        )

    def save(self) -> None:
        """Write the table to its file, if it has one and there is something new. A disk that is full stops no run."""
        if self._path is None or self._count == self._saved:
            return
        ids = torch.empty(self._count, dtype=torch.int64)
        held = (self._index >= 0).nonzero()[:, 0]
        ids[self._index[held]] = held
        columns = {f"column{k}": column[: self._count] for k, column in enumerate(self._columns)}
        try:
            write_tensors(self._path, {"ids": ids, **columns})
        except OSError as error:
            self._store.say(f"cannot write the feature store to {self._path}, so it is kept in memory only: {error}")
            self._path = None
        self._saved = self._count

    def _load(self, path: Path) -> None:
        try:
            tensors = read_tensors(path)
            ids = tensors.pop("ids")
            columns = [tensors[f"column{k}"] for k in range(len(tensors))]
        except (WeightsError, KeyError):
            return  # a damaged file is no loss: it is made again, and replaced when there is something to save
        if not self._store.reserve(sum(column.nbytes for column in columns)):
            self._path = None  # what this run can hold is less than what the file has
            return
        self._grow_index(ids)
        self._index[ids] = torch.arange(len(ids))
        self._columns, self._count, self._saved = columns, len(ids), len(ids)

    def _compute(self, base: Base, inputs: Inputs) -> Features:
        with torch.no_grad():
            features: Features = nn.Module.__call__(base, inputs)
        return features if self._store.keep_taps else Features(features.encoding)

    def _compute_some(self, base: Base, inputs: Inputs, wanted: Tensor) -> Features:
        """The outputs for the examples that are `wanted` (B,), computed with others of the batch."""
        chosen = torch.ones_like(wanted)
        if self._store.full:
            lacking = max(0, FEWEST - int(wanted.sum()))
            chosen = wanted.index_fill(0, (~wanted).nonzero()[:lacking, 0], True)
        device = next(iter(inputs.values())).device
        if chosen.all():
            features = self._compute(base, inputs)
        else:
            some = chosen.to(device)
            features = self._compute(base, Inputs({name: tensor[some] for name, tensor in inputs.items()}))
        if wanted.all():
            return features
        rows = wanted[chosen].to(device)
        return Features(features.encoding[rows], tuple(tap[rows] for tap in features.taps))

    def _rows(self, ids: Tensor) -> Tensor:
        self._grow_index(ids)
        return self._index[ids]

    def _grow_index(self, ids: Tensor) -> None:
        highest = int(ids.max()) + 1
        if highest > len(self._index):
            grown = torch.full((2 ** (highest - 1).bit_length(),), -1)
            grown[: len(self._index)] = self._index
            self._index = grown

    def _read(self, rows: Tensor, inputs: Inputs) -> Features:
        device = next(iter(inputs.values())).device
        first, *rest = (column[rows.to(column.device)].to(device) for column in self._columns)
        return Features(first, tuple(rest))

    def _remember(self, ids: Tensor, fresh: Features) -> None:
        columns = [fresh.encoding, *fresh.taps]
        first = _first_of_each(ids)
        if len(first) < len(ids):  # an example comes twice where one pass over the data ends and the next begins
            ids, columns = ids[first], [values[first.to(values.device)] for values in columns]
        room = len(self._columns[0]) if self._columns else 0
        need = self._count + len(ids)
        if need > room:
            grown = 2 ** (max(need, 256) - 1).bit_length()
            if not self._store.reserve(sum(column[0].nbytes for column in columns) * (grown - room)):
                return
            old = self._columns or [column[:0] for column in columns]
            self._columns = [torch.cat([one, one.new_empty(grown - room, *one.shape[1:])]) for one in old]
        for column, values in zip(self._columns, columns, strict=True):
            column[self._count : need] = values
        self._index[ids] = torch.arange(self._count, need)
        self._count = need


class Film:
    """The remembered outputs for the latest `window` frames of a film (see `parts.Inputs`), never on disk.

    The output for frame i is in row ``i % window``; `frames[row]` is the frame whose output is there, or -1.
    """

    def __init__(self, window: int, store: FeatureStore) -> None:
        self._store = store
        self._frames = torch.full((window,), -1)
        self._columns: list[Tensor] = []  # the encoding, then the taps: (window, *shape)

    def lookup(self, ids: Tensor, inputs: Inputs, compute: Callable[[], Features]) -> Features:
        """The outputs for a batch; where any is unknown, all are computed, and take the place of older ones."""
        rows = ids % len(self._frames)
        if torch.equal(self._frames[rows], ids):
            device = next(iter(inputs.values())).device
            first, *rest = (column[rows.to(column.device)].to(device) for column in self._columns)
            return Features(first, tuple(rest))
        fresh = compute()
        values = [fresh.encoding, *fresh.taps]
        if not self._columns:
            if not self._store.reserve(sum(one[0].nbytes for one in values) * len(self._frames)):
                return fresh
            self._columns = [one.new_empty(len(self._frames), *one.shape[1:]) for one in values]
        for column, one in zip(self._columns, values, strict=True):
            column[rows.to(column.device)] = one
        self._frames[rows] = ids
        return fresh


def _bases(module: nn.Module) -> list[Base]:
    return [one for one in module.modules() if isinstance(one, Base)]


def _identity(base: Base) -> str:
    """What decides a base's output for an input: its kind and code, the settings and the numbers in it, and what computes with them.

    Bases with equal weights and other options differ in the plain attributes of some module, such as a stride or the way of pooling.
    Of the code, the files that the classes of its modules stand in count, and not what those import.
    """
    ours = set(vars(nn.Module())) | {"store"}
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
    classes = {cls for module in base.modules() for cls in type(module).__mro__ if not cls.__module__.startswith(("torch.", "builtins"))}
    files = {getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in classes}
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file and Path(file).is_file()):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    """Whether the printed form of a value is all there is to it."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype) or attrs.has(type(value))


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
