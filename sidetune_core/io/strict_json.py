"""The JSON that the project writes: RFC 8259, which has no NaN and no infinity.

Python's own `json` writes ``NaN`` and ``Infinity``, which other readers refuse. Here a number that is not
finite is a gap, ``null``; where it must be kept, as in options and checkpoints, it is text (see `as_text`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

NOT_FINITE = ("inf", "-inf", "nan")
"""What `as_text` makes of numbers that are not finite."""


def dumps(values: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """Values as JSON, with ``null`` for each number that is NaN or infinite.

    Args:
        values: see `json.dumps`.
        indent: see `json.dumps`.
        default: see `json.dumps`.
    """
    try:
        return json.dumps(values, indent=indent, default=default, allow_nan=False)
    except ValueError:
        return json.dumps(_with_gaps(values), indent=indent, default=default, allow_nan=False)


def loads(text: str) -> Any:
    """Values from JSON, with None for each ``NaN`` or ``Infinity`` that an earlier version has written."""
    return json.loads(text, parse_constant=lambda _: None)


def as_text(value: float) -> float | str:
    """The number; "inf", "-inf" or "nan" if it is not finite."""
    return value if math.isfinite(value) else str(value)


def _with_gaps(values: Any) -> Any:
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {key: _with_gaps(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_with_gaps(value) for value in values]
    return values
