"""Numbers that plugins return by name, such as metrics."""

from __future__ import annotations

from collections.abc import Mapping

from sidetune_core.errors import PluginError
from sidetune_core.io.printable import one_line


def as_numbers(values: object, source: str) -> dict[str, float]:
    """Numbers by name, from those of Python, of NumPy, and tensors of one element; NaN and infinity stay.

    Args:
        values: what a plugin has returned.
        source: whose method it was, for messages.

    Raises:
        PluginError: it is no mapping from names to numbers.
    """
    if not isinstance(values, Mapping):
        raise PluginError(f"{source} has returned {_kind(values)}; it is to return numbers by name")
    return {_checked_name(name, source): _number(name, value, source) for name, value in values.items()}


def _checked_name(name: object, source: str) -> str:
    if not isinstance(name, str):
        raise PluginError(f"{source} has returned a number whose name is {_kind(name)}, not text")
    return name


def _number(name: object, value: object, source: str) -> float:
    if type(value) is float:
        return value
    what = f"{source} has returned, as {one_line(repr(name))},"
    if isinstance(value, str | bytes | bytearray):  # float() would read it
        raise PluginError(f"{what} {_kind(value)}, which is no number")
    try:
        number = float(value)  # type: ignore[arg-type]  # what is no number is what is looked for
    except OverflowError as error:
        raise PluginError(f"{what} an integer that is too large for a float") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise PluginError(f"{what} {_kind(value)}, which is no number") from error
    return value if type(value) is int else number


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
