"""Gymnasium spaces in plain values, for task cards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from .observations import NUMERIC_SPACES
from .parts import Space

MAX_ELEMENTS = 2**28
TEXT = "text"
"""Type of a space of texts, which are read as missions."""
MAX_TEXT = 2**16
DTYPES = ("bool", "uint8", "uint16", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


def describe_space(space: Space, bounds: bool = False) -> dict[str, Any] | None:
    """A space of numbers in plain values, or None for any other.

    Args:
        space: of observations or actions.
        bounds: whether those of a `Box` are needed, as for actions, which are clipped to them.
    """
    if not isinstance(space, NUMERIC_SPACES):
        return None
    if isinstance(space, spaces.Box):
        plain: dict[str, Any] = {"type": "box", "shape": [*space.shape], "dtype": str(space.dtype)}
        return {**plain, "low": _plain(space.low), "high": _plain(space.high)} if bounds else plain
    if isinstance(space, spaces.Discrete):
        return {"type": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "multidiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            "dtype": str(space.dtype),
        }
    return {"type": "multibinary", "shape": [*(space.shape or ())]}


def make_space(values: Mapping[str, Any]) -> Space:
    """The inverse of `describe_space`; a `Box` without bounds has those of its dtype.

    Raises:
        ValueError: it is not such a description.
    """
    kind = values.get("type")
    if kind == "box":
        shape, dtype = _shape(values), _dtype(values)
        least, most = _limits(dtype)
        low = _array(values.get("low", least), shape, dtype)
        high = _array(values.get("high", most), shape, dtype)
        return spaces.Box(low, high, shape, dtype=dtype.type)
    if kind == "discrete":
        n, start = values.get("n"), values.get("start")
        if not isinstance(n, int) or not isinstance(start, int) or not 0 < n <= MAX_ELEMENTS:
            raise ValueError(f"a discrete space has n {n!r} and start {start!r}")
        return spaces.Discrete(n, start=start)
    if kind == "multidiscrete":
        dtype = _dtype(values)
        nvec, start = (np.array(values.get(name), dtype) for name in ("nvec", "start"))
        if (nvec < 1).any() or nvec.sum() > MAX_ELEMENTS:
            raise ValueError(f"a multi-discrete space has nvec {values.get('nvec')!r}")
        return spaces.MultiDiscrete(nvec, dtype=dtype.type, start=start)
    if kind == "multibinary":
        shape = _shape(values)
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if kind == TEXT:
        return spaces.Text(MAX_TEXT)
    raise ValueError(f"a space has type {kind!r}")


def _plain(bound: Any) -> Any:
    """A bound (*shape) as one number if all are equal, else as a flat list; infinities as text."""
    numbers = [value if math.isfinite(value) else str(value) for value in np.unique(bound).tolist()]
    if len(numbers) == 1:
        return numbers[0]
    return [value if math.isfinite(value) else str(value) for value in bound.reshape(-1).tolist()]


def _array(bound: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    number = np.vectorize(float if dtype.kind == "f" else int, otypes=[dtype])
    array = number(np.array(bound, object))
    return np.full(shape, array) if array.ndim == 0 else array.reshape(shape)


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "f":
        return -math.inf, math.inf
    if dtype.kind == "b":
        return 0, 1
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _shape(values: Mapping[str, Any]) -> tuple[int, ...]:
    shape = values.get("shape")
    if not isinstance(shape, list | tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"a space has shape {shape!r}")
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"a space has shape {shape!r}")
    return tuple(shape)


def _dtype(values: Mapping[str, Any]) -> np.dtype[Any]:
    name = values.get("dtype")
    if name not in DTYPES:
        raise ValueError(f"a space has dtype {name!r}")
    return np.dtype(str(name))
