"""Names of environments that Gymnasium imports code for: ``module:Id-v0``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def modules_of(ids: Iterable[str]) -> list[str]:
    """The ids whose module is imported."""
    return [id for id in ids if ":" in id]


def modules_of_arguments(text: str) -> list[str]:
    """The texts ``module:…`` anywhere in keyword arguments, which are JSON."""
    try:
        return modules_of(texts_of(json.loads(text)))
    except (ValueError, RecursionError):  # it is refused later
        return []


def modules_of_all_arguments(texts: Iterable[str]) -> list[str]:
    """Those of `modules_of_arguments` of several."""
    return [module for text in texts for module in modules_of_arguments(text)]


def texts_of(value: Any) -> Iterator[str]:
    """All texts in nested values, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (key, *texts_of(item))
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)
