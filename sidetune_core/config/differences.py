"""How two nested values differ: specs, manifests, and other tables within tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs


@attrs.frozen
class Difference:
    """A value that differs; a side that has no value of this name has None."""

    name: str
    """With dots: ``train.lr``."""
    first: Any
    second: Any


def differences(first: Any, second: Any, transparent: Iterable[str] = ()) -> list[Difference]:
    """The values at which two nested tables differ, in the order of `first`.

    Args:
        first: a table of values and tables; anything else is one value, whose name is empty.
        second: the same.
        transparent: tables whose names are left out: ``learner.coef`` for ``learner.options.coef``.
    """
    left, right = flatten(first, transparent), flatten(second, transparent)
    return [
        Difference(name, left.get(name), right.get(name))
        for name in {**left, **right}
        if left.get(name) != right.get(name)
    ]


def flatten(values: Any, transparent: Iterable[str] = (), prefix: str = "") -> dict[str, Any]:
    """A nested table as one of dotted names; an empty table counts as no value."""
    if not isinstance(values, Mapping):
        return {prefix.removesuffix("."): values}
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, transparent, prefix if name in transparent else f"{prefix}{name}.")
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as tables in tables."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *tables, last = name.split(".")
        target = nested
        for table in tables:
            target = target.setdefault(table, {})
        target[last] = value
    return nested


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The values of both; `second` wins, tables in tables are merged."""
    values = dict(first)
    for name, value in second.items():
        before = values.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            values[name] = merged(before, value)
        else:
            values[name] = value
    return values
