"""What the data of a run consist of: ``data.json`` of the run folder, and how two such records differ.

A fingerprint says that data differ. The parts, such as the training examples of a class, say which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs

from sidetune_core.io.printable import counted

FILE = "data.json"
"""The file of a run folder."""

MAX_PARTS = 20_000
"""Parts of an env that are recorded one by one; more are recorded by task and split, or by task."""

SHOWN = 5
"""Changes that a message names."""


class Part(Protocol):
    """See `interfaces.tasks.DataPart`."""

    @property
    def count(self) -> int:
        """Number of examples."""

    @property
    def digest(self) -> str:
        """Equal only for equal content."""


@attrs.frozen
class RecordedPart:
    """A part of an env's data, or several of them (see `summarised`)."""

    count: int
    digest: str


@attrs.frozen
class DataRecord:
    """The data of one env of a run, as they were read."""

    extension: int
    """0 for the env that the run began with, k for that of its k-th extension."""
    env: str
    """``env 'images'``"""
    fingerprint: str
    """See `TaskStream.data_fingerprint`."""
    content: str = ""
    """See `TaskStream.content_fingerprint`; empty if unknown."""
    depth: int = 0
    """Number of components to which the names of parts are shortened; 0 for whole names."""
    parts: Mapping[str, RecordedPart] = attrs.field(factory=dict)
    """By name, such as ``acme/train/cat``; empty if unknown."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``data.json``."""
        values = attrs.asdict(self, recurse=False)
        values["parts"] = {name: [part.count, part.digest] for name, part in self.parts.items()}
        return values


def make_record(
    extension: int, env: str, fingerprint: str, content: str, parts: Mapping[str, Part]
) -> DataRecord:
    """The record of an env's data; it has at most `MAX_PARTS` parts."""
    recorded = {name: RecordedPart(part.count, part.digest) for name, part in parts.items()}
    depth = next((depth for depth in (0, 2, 1) if _count(recorded, depth) <= MAX_PARTS), None)
    if depth is None:
        return DataRecord(extension, env, fingerprint, content)
    return DataRecord(extension, env, fingerprint, content, depth, summarised(recorded, depth))


def summarised(parts: Mapping[str, RecordedPart], depth: int, present: int = 0) -> dict[str, RecordedPart]:
    """Parts under names of at most `depth` components, with the counts and digests of those that have the
    same; as they are if `depth` is 0.

    Args:
        parts: by name.
        depth: 0, 2, or 1, which summarises what 2 has summarised.
        present: the depth of the names that they have.
    """
    if depth == present:
        return dict(parts)
    if depth == 1 and not present:
        parts = summarised(parts, 2)
    counts: dict[str, int] = {}
    digests: dict[str, Any] = {}
    for name in sorted(parts):
        short, part = _shortened(name, depth), parts[name]
        counts[short] = counts.get(short, 0) + part.count
        line = f"{len(name)} {name} {part.count} {part.digest}\n"
        digests.setdefault(short, hashlib.sha256()).update(line.encode(errors="surrogateescape"))
    return {short: RecordedPart(count, digests[short].hexdigest()) for short, count in counts.items()}


def read_records(values: Mapping[str, Any]) -> list[DataRecord]:
    """The records of a ``data.json``; what is damaged is left out."""
    records = values.get("records")
    found = (_read(record) for record in (records if isinstance(records, list) else ()))
    return [record for record in found if record is not None]


def find(records: Iterable[DataRecord], extension: int, fingerprint: str) -> DataRecord | None:
    """The record of an env's data with a fingerprint, if there is one."""
    wanted = (extension, fingerprint)
    return next((record for record in records if (record.extension, record.fingerprint) == wanted), None)


@attrs.frozen
class DataChange:
    """The data of an env are others than before."""

    env: str
    parts: tuple[str, ...] = ()
    """What has changed, in lines; empty where only the fingerprints are known."""

    @property
    def shown(self) -> str:
        """The parts; without them, the env."""
        return shorten_changes(self.parts) if self.parts else f"the data of {self.env}"

    def __str__(self) -> str:
        parts = f": {shorten_changes(self.parts)}" if self.parts else ""
        return f"the data of {self.env}{parts}"


def data_change(env: str, before: DataRecord | None, now: DataRecord | None) -> DataChange:
    """How the data of an env differ, whose fingerprints do; a record is None where it is unknown."""
    if before is None or now is None or not before.parts or not now.parts:
        return DataChange(env)
    changes = tuple(part_changes(before, now))
    return DataChange(env, changes or ("the same parts, in another order or otherwise processed",))


def part_changes(before: DataRecord, now: DataRecord) -> Iterator[str]:
    """How parts differ, in lines: ``acme/train/cat 12 → 13 examples``. A task that is new or gone, and a
    split of a task, is one line."""
    depth = _coarser(before.depth, now.depth)
    first, second = (summarised(record.parts, depth, record.depth) for record in (before, now))
    lost, new = _whole(first, second), _whole(second, first)
    for owners, state in ((lost, "gone"), (new, "new")):
        yield from (f"{owner} ({counted(count, 'example')}) is {state}" for owner, count in owners.items())
    for name, part in first.items():
        other = second.get(name)
        if other is None and _owner(name, lost) is None:
            yield f"{name} ({counted(part.count, 'example')}) is gone"
        elif other is not None and other.count != part.count:
            yield f"{name} {part.count} → {counted(other.count, 'example')}"
        elif other is not None and other.digest != part.digest:
            yield f"{name}: other content"
    for name, part in second.items():
        if name not in first and _owner(name, new) is None:
            yield f"{name} ({counted(part.count, 'example')}) is new"


def of_task(record: DataRecord, task: str) -> DataRecord:
    """The record with the parts of one task only, by its id in the env."""
    parts = {name: part for name, part in record.parts.items() if _shortened(name, 1) == task}
    return attrs.evolve(record, parts=parts)


def of_parts(record: DataRecord, names: Iterable[str]) -> DataRecord:
    """The record with some parts only, by their names."""
    kept = set(names)
    return attrs.evolve(record, parts={name: part for name, part in record.parts.items() if name in kept})


def tasks_of(record: DataRecord) -> list[str]:
    """The first components of the names of parts, in order."""
    return list(dict.fromkeys(_shortened(name, 1) for name in record.parts))


def shorten_changes(lines: Sequence[str]) -> str:
    """Lines of `part_changes` for a message: the first of them, and how many more there are."""
    more = len(lines) - SHOWN
    return ", ".join([*lines[:SHOWN], *([f"and {more} more {'parts' if more > 1 else 'part'}"] * (more > 0))])


def _whole(parts: Mapping[str, RecordedPart], others: Mapping[str, RecordedPart]) -> dict[str, int]:
    """The tasks, and splits of tasks, that have parts of their own and of which the other record has none;
    each with the number of its examples."""
    present = {_shortened(name, depth) for name in others for depth in (1, 2)}
    found: dict[str, int] = {}
    for name, part in parts.items():
        owners = (_shortened(name, depth) for depth in (1, 2) if name.count("/") >= depth)
        owner = next((owner for owner in owners if owner not in present), None)
        if owner is not None:
            found[owner] = found.get(owner, 0) + part.count
    return found


def _owner(name: str, owners: Mapping[str, int]) -> str | None:
    """The task or split, of `_whole`, to which a part belongs."""
    return next((owner for depth in (1, 2) if (owner := _shortened(name, depth)) in owners), None)


def _shortened(name: str, depth: int) -> str:
    return "/".join(name.split("/")[:depth])


def _count(parts: Mapping[str, RecordedPart], depth: int) -> int:
    return len({_shortened(name, depth) for name in parts}) if depth else len(parts)


def _coarser(first: int, second: int) -> int:
    """The depth to which both records can be shortened."""
    return min(first or second, second or first)


def _read(values: Any) -> DataRecord | None:
    try:
        parts = {
            str(name): RecordedPart(int(count), str(digest))
            for name, (count, digest) in values["parts"].items()
        }
        extension, depth = int(values["extension"]), int(values["depth"])
        env, fingerprint, content = (str(values[key]) for key in ("env", "fingerprint", "content"))
        return DataRecord(extension, env, fingerprint, content, depth, parts)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
