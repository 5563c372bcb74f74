"""Tables by name that change from step to step: what a step adds, replaces and removes."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Container, Mapping, Sequence
from typing import Any, Generic, TypeVar

import attrs

V = TypeVar("V")


@attrs.frozen
class Delta(Generic[V]):
    """How a table differs from the one before."""

    changed: Mapping[str, V] = attrs.field(factory=dict)
    """Entries that are new or have another value."""
    gone: Sequence[str] = ()
    """Names without an entry from now on."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; `read_delta` reads them back."""
        return {"changed": dict(self.changed), "gone": list(self.gone)}


def read_delta(values: Any) -> Delta[Any]:
    """The delta in the JSON of a step.

    Raises:
        TypeError, ValueError: the values are of another form.
    """
    delta = Delta(**values)
    if not isinstance(delta.changed, dict) or not isinstance(delta.gone, list):
        raise TypeError("expected an object and a list")
    return delta


def difference(before: Mapping[str, V], now: Mapping[str, V]) -> Delta[V]:
    """The delta between two tables. Values are compared as JSON: 1, 1.0 and true differ."""
    changed = {
        name: value for name, value in now.items() if name not in before or not _same(before[name], value)
    }
    return Delta(changed, sorted(before.keys() - now.keys()))


def apply(before: Mapping[str, V], delta: Delta[V]) -> dict[str, V]:
    """The table after a delta."""
    gone = set(delta.gone)
    kept = {name: value for name, value in before.items() if name not in gone}
    return {**kept, **delta.changed}


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, str) and isinstance(second, str):
        return first == second
    return json.dumps(first) == json.dumps(second)


class History(Generic[V]):
    """A table at each of several steps, which are numbered from 0."""

    def __init__(self) -> None:
        self.newest: dict[str, V] = {}
        """The table after the last step."""
        self._versions: dict[str, list[tuple[int, tuple[V] | None]]] = {}

    def add(self, step: int, delta: Delta[V]) -> None:
        """Append a step."""
        for name in delta.gone:
            del self.newest[name]
            self._versions[name].append((step, None))
        for name, value in delta.changed.items():
            self._versions.setdefault(name, []).append((step, (value,)))
        self.newest.update(delta.changed)

    def find(self, name: str, step: int) -> tuple[int, V] | None:
        """The step that set the entry that a name has at `step`, and the entry; None if it has none."""
        versions = self._versions.get(name, [])
        index = bisect_right(versions, step, key=lambda version: version[0])
        if not index:
            return None
        owner, entry = versions[index - 1]
        return None if entry is None else (owner, entry[0])

    def at(self, step: int) -> dict[str, V]:
        """The table at a step."""
        found = ((name, self.find(name, step)) for name in self._versions)
        return {name: version[1] for name, version in found if version is not None}


Insertions = Sequence[tuple[str | None, Sequence[str]]]
"""Runs of new names, each with the name that they follow; None for those at the beginning."""


def order_to_json(before: Sequence[str], now: Sequence[str]) -> dict[str, Any]:
    """An order of names, given the one before: what is inserted, or all of it if names have moved."""
    if (insertions := find_insertions(before, now)) is not None:
        return {"inserted": insertions}
    names, known = set(now), set(before)
    kept = list(before) if known <= names else [name for name in before if name in names]
    if kept != [name for name in now if name in known]:
        return {"all": list(now)}
    runs: list[tuple[str | None, list[str]]] = []
    end = -1
    for place in [place for place, name in enumerate(now) if name not in known]:
        if place != end:
            runs.append((now[place - 1] if place else None, []))
        runs[-1][1].append(now[place])
        end = place + 1
    return {"inserted": runs}


def find_insertions(before: Sequence[str], now: Sequence[str]) -> Insertions | None:
    """What is inserted between two orders of distinct names; None if a name is gone or has moved.

    Runs of equal names are compared as slices, many times as fast as name by name.
    """
    before, now = list(before), list(now)
    runs: list[tuple[str | None, list[str]]] = []
    old = new = 0
    while True:
        equal = _equal_run(before, old, now, new)
        old, new = old + equal, new + equal
        if old == len(before):
            if new < len(now):
                runs.append((now[new - 1] if new else None, now[new:]))
            return runs
        try:
            end = now.index(before[old], new)
        except ValueError:
            return None
        runs.append((now[new - 1] if new else None, now[new:end]))
        new = end


def _equal_run(first: list[str], i: int, second: list[str], j: int) -> int:
    """How many names are equal from `i` in one list and from `j` in another."""
    length, limit, size = 0, min(len(first) - i, len(second) - j), 64
    is_growing = True
    while length < limit and size:
        step = min(size, limit - length)
        at, other = i + length, j + length
        is_equal = first[at : at + step] == second[other : other + step]
        length += step if is_equal else 0
        is_growing = is_growing and is_equal
        size = 2 * size if is_growing else step // 2
    return length


def read_order(before: Sequence[str], values: Any, present: Container[str]) -> list[str]:
    """The order in the JSON of a step, of the names in `present`.

    Raises:
        KeyError, TypeError, ValueError: the values are of another form.
    """
    if "all" in values:
        return list(values["all"])
    order = [name for name in before if name in present]
    for anchor, run in values["inserted"]:
        at = 0 if anchor is None else order.index(anchor) + 1
        order[at:at] = run
    return order
