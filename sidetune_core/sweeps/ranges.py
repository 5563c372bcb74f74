"""Ranges of options to search: ``1e-4..1e-2:log``, ``2..7``, ``relu,gelu``, or a single value.

1e-4..1e-2:log     numbers of a log-uniform distribution, both ends included
0..0.5             numbers of a uniform distribution
2..7               whole numbers, for options that take them
1e-4..1e-2:log:5   5 values with equal ratios, or with equal distances without ``log``
16,32,64           these values; a value that has a comma itself is enclosed in double quotes
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.errors import OptionError
from sidetune_core.sweeps.grid import MAX_RUNS, list_values

Value = float | int | str
"""Of an option: a number from a range, or the text of a value as it is typed."""

_NUMBER = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})((?::[^:]*)*)")
_WHOLE = re.compile(r"[+-]?\d{1,18}")


@attrs.frozen
class Range:
    """The numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    """Whole numbers only."""

    def __str__(self) -> str:
        ends = [str(int(end)) if self.whole else repr(end) for end in (self.low, self.high)]
        return "..".join(ends) + (":log" if self.log else "")

    @property
    def values(self) -> Sequence[Value] | None:
        """All of them, if they are whole numbers and not too many; otherwise None."""
        if not self.whole or self.high - self.low >= MAX_RUNS:
            return None
        return range(int(self.low), int(self.high) + 1)

    @property
    def ends(self) -> tuple[Value, Value]:
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


@attrs.frozen
class Choices:
    """Some values; a single one is no choice."""

    values: tuple[Value, ...]

    def __str__(self) -> str:
        return ",".join(f'"{value}"' if "," in str(value) else str(value) for value in self.values)

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.values


@attrs.frozen
class Fixed:
    """The words of an option that is not searched; none for a switch."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


Axis = Range | Choices | Fixed


def parse_axis(name: str, words: Sequence[str]) -> Axis:
    """The values of an option from the words that follow it on a command line.

    Raises:
        OptionError: a range is not valid, or a list has an empty value.
    """
    if len(words) != 1:
        return Fixed(tuple(words))
    (text,) = words
    if match := _RANGE.fullmatch(text):
        return _parse_range(f"--{name} {text}", match[1], match[2], match[3].split(":")[1:])
    values = list_values(name, text) if "," in text or text.startswith('"') else [text]
    return Choices(tuple(dict.fromkeys(values))) if len(values) > 1 else Fixed((values[0],))


def _parse_range(shown: str, low: str, high: str, suffixes: Sequence[str]) -> Axis:
    first, last = float(low), float(high)
    log, count = False, None
    for suffix in suffixes:
        if suffix == "log":
            log = True
        elif _WHOLE.fullmatch(suffix) and count is None:
            count = int(suffix)
        else:
            raise OptionError(
                f"{shown}: a range ends with :log, with a number of values such as :5, or with both, as in "
                f"{low}..{high}:log:5; not with ':{suffix}'"
            )
    if not (math.isfinite(first) and math.isfinite(last)):
        raise OptionError(f"{shown}: the ends of a range are finite numbers")
    if first >= last:
        raise OptionError(f"{shown}: the low end comes first; did you mean {high}..{low}?")
    if log and first <= 0:
        raise OptionError(f"{shown}: a logarithmic range begins above 0")
    whole = bool(_WHOLE.fullmatch(low) and _WHOLE.fullmatch(high))
    if count is None:
        return Range(first, last, log, whole)
    if not 2 <= count <= MAX_RUNS:
        raise OptionError(f"{shown}: a range of 2 to {MAX_RUNS:,} values, not {count}")
    steps = [index / (count - 1) for index in range(1, count - 1)]
    between = [first * (last / first) ** step if log else first + (last - first) * step for step in steps]
    if whole:
        points = [int(low), *map(round, between), int(high)]
        return Choices(tuple(str(point) for point in dict.fromkeys(points)))
    return Choices(tuple(dict.fromkeys([low, *(f"{value:.6g}" for value in between), high])))


def for_option(axis: Axis, name: str, kinds: Sequence[type[Any]], shown_type: str) -> Axis:
    """A range as the option takes it: of whole numbers only if it takes no others.

    Args:
        axis: as it was typed.
        name: of the option.
        kinds: the types that the option takes.
        shown_type: the same for people.

    Raises:
        OptionError: the option takes no such numbers.
    """
    if not isinstance(axis, Range):
        return axis
    if float in kinds:
        return attrs.evolve(axis, whole=False)
    if int not in kinds:
        raise OptionError(
            f"--{name} {axis}: a range is for numbers, and the option takes {shown_type}; give the values "
            "to search, separated by commas"
        )
    if not axis.whole:
        raise OptionError(
            f"--{name} {axis}: the option takes whole numbers; give a range of these, such as "
            f"{math.ceil(axis.low)}..{max(math.floor(axis.high), math.ceil(axis.low) + 1)}"
        )
    return axis


def to_json(axis: Axis) -> dict[str, Any]:
    """An axis as plain values; `from_json` reads them back."""
    return {type(axis).__name__.lower(): attrs.asdict(axis)}


def from_json(values: Mapping[str, Mapping[str, Any]]) -> Axis:
    """See `to_json`.

    Raises:
        KeyError, TypeError, ValueError: it is no axis.
    """
    ((kind, fields),) = values.items()
    if kind == "range":
        return Range(**fields)
    return Choices(tuple(fields["values"])) if kind == "choices" else Fixed(tuple(fields["words"]))
