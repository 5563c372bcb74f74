"""The identity of a run: everything that decides on its bytes, as every checkpoint records it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs


@attrs.frozen
class Identity:
    """What a run computes, on which data, with which code, and under which conditions."""

    spec: Mapping[str, Any]
    """The resolved spec (see `RunSpec.to_json`)."""
    data: str
    """The fingerprint of the data (see `TaskStream.fingerprint`); empty if unknown."""
    tasks: Sequence[Mapping[str, str]]
    """Id, title and metric of each task."""
    higher_is_better: bool
    plugins: Mapping[str, Mapping[str, str]]
    """Distribution, version and digest of the source of each component, by slot (see `PluginRecord`)."""
    versions: Mapping[str, str]
    """Of Python and the libraries that compute."""
    threads: int
    """Threads of an operation on the CPU."""
    processes: int
    machine: str
    """Device, precision and memory layout."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; `read_identity` reads them back."""
        values: dict[str, Any] = json.loads(json.dumps(attrs.asdict(self), default=str))
        return values


def read_identity(values: Any) -> Identity | None:
    """The identity in a checkpoint's JSON; None in those of earlier versions.

    Raises:
        TypeError: the values are of another form.
    """
    return Identity(**values) if values is not None else None
