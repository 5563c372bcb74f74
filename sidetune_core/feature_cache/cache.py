"""The feature cache: a frozen base encodes each example once.

Side-tuning never changes its base, so the base's features of an unchanged input can be reused: in all epochs
of a task, in evaluations after later tasks and, on disk, in later runs. The hook is `Base.__call__`:
learners, sides and envs do not know about the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
from torch import nn

from sidetune_core.feature_cache.frozen import Attached, has_additions, is_frozen
from sidetune_core.feature_cache.row_table import RowTable
from sidetune_core.feature_cache.table import Table
from sidetune_core.feature_cache.taps import Taps
from sidetune_core.interfaces.inputs import Features, Inputs
from sidetune_core.interfaces.networks import Base

GIB = 2**30

LAYOUT = "3"
"""Version of the file format; files of other versions are ignored."""


@attrs.define(eq=False)
class FeatureCache:
    """Features of frozen bases by example id, in at most `limit` bytes for all bases together.

    Beyond the limit, cached features stay in use and all others are computed at every visit; `info` is called
    once.

    Args:
        limit: maximum size in bytes.
        taps: indices of the taps that are cached with the encodings; None for all of them. The others are
            empty tensors (B, 0) in `Features.taps`, which is empty where no tap is cached.
        info: shows a line to the user.
        folder: where tables are stored for later runs; None for memory only.
        data: fingerprint of the data and its transforms, part of the key on disk; empty to keep tables in
            memory.
        shared_ids: see `TaskStream.shared_ids`; otherwise each task has a namespace of its own.
        warning: shows a line to the user, even if `info` is silent.
    """

    limit: int
    taps: tuple[int, ...] | None
    info: Callable[[str], None]
    folder: Path | None = None
    data: str = ""
    shared_ids: bool = False
    warning: Callable[[str], None] = attrs.field(
        default=attrs.Factory(lambda self: self.info, takes_self=True)
    )
    used: int = 0
    _tables: dict[str, Table] = attrs.field(factory=dict, init=False)
    _noticed: set[str] = attrs.field(factory=set, init=False)
    _attached: dict[int, Attached] = attrs.field(factory=dict, init=False)
    """By id of the base, which it keeps."""
    full: bool = attrs.field(default=False, init=False)

    def attach(self, module: nn.Module, arithmetic: str, bases: Sequence[Base] | None = None) -> None:
        """Serve every frozen base in `module`, and no other. `arithmetic` is the precision of bases that have
        none of their own; that of a base's outputs is a part of the key. `bases` are those of `module`, if
        they are known.

        A base that was frozen when it was attached before is hashed once more only if it has changed since.
        A base with hooks, parametrisations or modules that were added after it was built is not served: its
        output may depend on them.
        """
        served = set()
        attached_before, self._attached = self._attached, {}
        for base in _bases(module) if bases is None else bases:
            base.cache = None
            if not is_frozen(base):
                continue
            if has_additions(base):
                self._notice(
                    f"{type(base).__name__} is computed at every visit, without the feature cache: hooks or "
                    "modules were added to it"
                )
                continue
            before = attached_before.get(id(base))
            attached = before if before is not None and before.is_still(base) else Attached(base)
            self._attached[id(base)] = attached
            table = self._table(attached.identity, base._precision or arithmetic, len(base.tap_shapes))
            base.cache = ServedBase(table, attached)
            served.add(id(table))
        for key, table in list(self._tables.items()):
            if id(table) not in served:  # a teacher of an earlier task, or weights that have changed
                table.save()
                self.used -= table.bytes
                del self._tables[key]

    @staticmethod
    def detach(module: nn.Module, bases: Sequence[Base] | None = None) -> None:
        """Serve no base in `module` any more; `bases` are those of `module`, if they are known."""
        for base in _bases(module) if bases is None else bases:
            base.cache = None

    def reserve(self, size: int) -> bool:
        """Reserve `size` bytes; returns whether they fit into the limit."""
        if self.used + size > self.limit:
            self.full = True
            self._notice(
                f"the feature cache is full ({self.limit / GIB:.3g} GiB): further features are computed "
                "at every visit; --cache.limit sets the limit"
            )
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        """Give back `size` reserved bytes."""
        self.used -= size

    def save(self) -> None:
        """Write new features to disk."""
        for table in self._tables.values():
            table.save()

    def reload(self) -> None:
        """Find the features that other processes have written to disk since the tables were opened."""
        for table in self._tables.values():
            table.reload()

    def _table(self, identity: str, arithmetic: str, tap_count: int) -> Table:
        """The table of a base with this number of taps. Tables with other taps have other files."""
        taps = Taps(self.taps, tap_count)
        key = "/".join([identity, self.data, arithmetic, taps.key, LAYOUT])
        if key not in self._tables:
            self._tables[key] = Table(self, key, arithmetic, taps)
        return self._tables[key]

    def open_rows(self, key: str, scope: str) -> RowTable:
        """The rows of a base in a namespace, with those that are on disk."""
        name = hashlib.sha256(f"{key}/{scope}".encode()).hexdigest()[:40]
        folder = self.folder / name if self.folder and self.data else None
        return RowTable(folder, self.reserve, self.info)

    def _notice(self, text: str) -> None:
        """Show a line once."""
        if text not in self._noticed:
            self._noticed.add(text)
            self.info(text)


class ServedBase:
    """What a base asks: its table, while it computes what it computed when it was attached."""

    def __init__(self, table: Table, attached: Attached) -> None:
        self.table, self._attached = table, attached

    def lookup(self, base: Base, inputs: Inputs) -> Features:
        """The features of a batch; computed outside the cache if hooks or weights have changed."""
        if self._attached.is_unchanged(base):
            return self.table.lookup(base, inputs)
        features: Features = nn.Module.__call__(base, inputs)
        return features

    def __deepcopy__(self, _: dict[int, object]) -> None:
        """A copy of a base is not served until it is attached."""


def _bases(module: nn.Module) -> list[Base]:
    return [one for one in module.modules() if isinstance(one, Base)]
