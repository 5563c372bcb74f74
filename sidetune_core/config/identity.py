"""The identity of a run: everything that decides on its bytes, as every checkpoint records it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import attrs

from sidetune_core.config.differences import differences

MAX_SHOWN = 60
"""Longest value in a message, in characters."""

ROUNDING = "results may differ by rounding"
"""What other conditions mean."""


class Conditions(Protocol):
    """What decides on rounding: with other conditions a run has the same results up to rounding, not the same
    bytes."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Of Python and the libraries that compute."""

    @property
    def threads(self) -> int:
        """Threads of an operation on the CPU; 0 if unknown."""

    @property
    def processes(self) -> int:
        """Processes of the run; 0 if unknown."""

    @property
    def machine(self) -> str:
        """Device, precision and memory layout; empty if unknown."""


@attrs.frozen
class Identity:
    """What a run computes, on which data, with which code, and under which conditions."""

    spec: Mapping[str, Any]
    """The resolved spec (see `RunSpec.to_json`)."""
    data: str
    """The fingerprint of the data (see `TaskStream.data_fingerprint`); empty if unknown."""
    tasks: Sequence[Mapping[str, str]]
    """Id, title and metric of each task."""
    higher_is_better: bool
    plugins: Mapping[str, Mapping[str, str]]
    """Distribution, version and digest of the source of each component, by slot (see `PluginRecord`)."""
    versions: Mapping[str, str]
    """See `Conditions`."""
    threads: int
    processes: int
    machine: str
    extensions: Sequence[Mapping[str, Any]] = ()
    """Of the run so far (see `extensions.Extension`), without cache and device."""

    @cached_property
    def plain(self) -> Mapping[str, Any]:
        """Plain values, the same object each time, because those of a long stream take milliseconds."""
        values = as_plain(attrs.asdict(self))
        if not values["extensions"]:
            del values["extensions"]
        return values

    def to_json(self) -> dict[str, Any]:
        """Plain values; `read_identity` reads them back."""
        return dict(self.plain)


def read_identity(values: Any) -> Identity | None:
    """The identity in a checkpoint's JSON; None in those of earlier versions.

    Raises:
        TypeError: the values are of another form.
    """
    return Identity(**values) if values is not None else None


def as_plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they are after being written to JSON; what JSON does not have becomes text."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def spec_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names and options that differ between two resolved specs: ``train.lr 0.001 → 0.01``.

    The device and the cache are left out: they decide on rounding and speed only.
    """
    return [
        f"{change.name} {_shown(change.first)} → {_shown(change.second)}"
        for change in differences(before, now, transparent=("options",))
        if change.name.partition(".")[0] not in ("device", "cache")
    ]


def task_changes(before: Identity, now: Identity) -> list[str]:
    """The properties of tasks that differ, in streams of equal length: ``title of task t0 'a' → 'b'``."""
    found = [
        f"{key} of task {task.get('id')} {_shown(task.get(key))} → {_shown(other.get(key))}"
        for task, other in zip(before.tasks, now.tasks, strict=False)
        for key in task
        if task[key] != other.get(key)
    ]
    if before.higher_is_better != now.higher_is_better:
        found.append(f"higher_is_better {before.higher_is_better} → {now.higher_is_better}")
    return found


def condition_changes(before: Conditions, now: Conditions) -> list[str]:
    """The conditions that are known and differ: ``torch 2.10.0 → 2.11.0``, ``threads 4 → 2``."""
    found = [
        f"{name} {version} → {now.versions[name]}"
        for name, version in before.versions.items()
        if now.versions.get(name, version) != version
    ]
    for name in ("threads", "processes", "machine"):
        first, second = getattr(before, name), getattr(now, name)
        if first and second and first != second:
            found.append(f"{name} {_shown(first)} → {_shown(second)}")
    return found


def _shown(value: Any) -> str:
    """A value for a message; control characters are escaped."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
