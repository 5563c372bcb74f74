"""Options: one declaration each, read by the command line, the spec file, validation, `describe` and the run record.

A plugin's ``Config`` is a frozen attrs class whose fields are made with `option`:

    @attrs.frozen
    class Config:
        coef: float = option(1e4, "weight of the penalty", at_least(0))
"""

from __future__ import annotations

import types
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, cast

import attrs
import cattrs
import cattrs.errors

from sidetune_core.errors import OptionError, suggest

REMOVAL = "0.3"
"""The version in which former spellings of options stop working."""

T = TypeVar("T")
Check = Callable[[Any, "attrs.Attribute[Any]", Any], Any]


def option(default: T, help: str, *checks: Check) -> T:
    """A field of a plugin's ``Config``.

    Args:
        default: value when the user sets nothing; every option has one.
        help: what it does, with unit and range, in one sentence that begins in lower case.
        checks: validators such as `at_least`; ``None`` passes every check.
    """
    validator: Any = attrs.validators.optional(list(checks)) if checks else None
    return attrs.field(default=default, validator=validator, metadata={"help": help})


def at_least(low: float) -> Check:
    """The value is `low` or more."""
    return _bound(lambda value: value >= low, f"at least {low:g}")


def more_than(low: float) -> Check:
    """The value is greater than `low`."""
    return _bound(lambda value: value > low, f"more than {low:g}")


def at_most(high: float) -> Check:
    """The value is `high` or less."""
    return _bound(lambda value: value <= high, f"at most {high:g}")


def _bound(holds: Callable[[Any], bool], words: str) -> Check:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not holds(value):  # NaN fails every comparison, and so is refused
            raise ValueError(f"{field.name.replace('_', '-')} must be {words}, not {value}")

    return check


class FormerSpelling(FutureWarning):
    """An option was given by a former name or value, which a later version will refuse."""


@attrs.frozen
class Renamed:
    """What became of an option of an earlier version.

    A ``Config`` lists its own in ``former_options: ClassVar[Mapping[str, Renamed]]``, by former name:

        former_options = {"blind": Renamed("mask-images"), "weights": Renamed("weights", {"seed": "authors"})}
    """

    to: str
    """The option's name now, with dots where it is nested: ``ppo.clip``."""
    values: Mapping[Any, Any] = attrs.field(factory=dict)
    """New values by former ones; all others are the same."""


@attrs.frozen
class OptionInfo:
    """One option as `sidetune describe` shows it."""

    name: str
    type: str
    default: Any
    help: str


def describe(config: type[Any]) -> list[OptionInfo]:
    """The options of a ``Config`` class, in their order of declaration."""
    hints = typing.get_type_hints(config)
    return [
        OptionInfo(
            field.name.replace("_", "-"),
            type_words(hints[field.name]),
            field.default,
            field.metadata.get("help", ""),
        )
        for field in attrs.fields(config)
    ]


def type_words(hint: Any) -> str:
    """A type as a user reads it: ``float``, ``path | none``, ``adam | sgd``."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " | ".join(str(value) for value in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_words(one) for one in typing.get_args(hint))
    if hint is type(None):
        return "none"
    return getattr(hint, "__name__", str(hint)).lower()


def structure(config: type[T], values: Mapping[str, Any], owner: str) -> T:
    """Make a ``Config`` from plain values, as a spec file or Python code gives them.

    Args:
        config: the frozen attrs class.
        values: option name (with ``_`` or ``-``) to value.
        owner: who has these options, for the message: ``learner 'ewc'``.

    Raises:
        OptionError: an option is unknown, of the wrong type, or out of range.
    """
    fields = {field.name for field in attrs.fields(cast(Any, config))}
    given = respell(config, values, owner)
    for name in given:
        if name not in fields:
            raise unknown_option(owner, name, fields)
    try:
        return _CONVERTER.structure(given, config)
    except cattrs.errors.BaseValidationError as error:
        reasons = "; ".join(_first_reasons(error))
        raise OptionError(f"{owner}: {reasons}") from error


def respell(config: type[Any], values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Values under the names that the options have now, with ``_`` for ``-``; each former spelling is a `FormerSpelling` warning.

    Raises:
        OptionError: an option is given by its former and by its new name.
    """
    former: Mapping[str, Renamed] = getattr(config, "former_options", {})
    respelled: dict[str, Any] = {}
    for name, value in values.items():
        renamed = former.get(name.replace("_", "-"))
        if renamed is None or (renamed.to == name.replace("_", "-") and value not in list(renamed.values)):
            respelled[name.replace("-", "_")] = value
            continue
        new_value = renamed.values[value] if value in list(renamed.values) else value
        warnings.warn(
            f"{owner}: {name.replace('_', '-')} {value} is now {renamed.to} {new_value}; "
            f"the former spelling is refused from version {REMOVAL}",
            FormerSpelling,
            stacklevel=2,
        )
        *tables, last = renamed.to.replace("-", "_").split(".")
        target = respelled
        for table in tables:
            target = target.setdefault(table, {})
        if last in target or (not tables and {last, renamed.to} & (values.keys() - {name})):
            raise OptionError(
                f"{owner}: '{name}' is the former name of '{renamed.to}', and both are given; leave out '{name}'"
            )
        target[last] = new_value
    return respelled


def unstructure(config: Any) -> dict[str, Any]:
    """The plain values of a ``Config``, fit for JSON."""
    return cast(dict[str, Any], _CONVERTER.unstructure(config))


def unknown_option(owner: str, name: str, known: set[str]) -> OptionError:
    """The error for an option that `owner` does not have."""
    name = name.replace("_", "-")
    shown = sorted(one.replace("_", "-") for one in known)
    there = f"Its options: {', '.join(shown)}" if shown else "It has no options"
    return OptionError(f"{owner} has no option '{name}'.{suggest(name, shown)} {there}")


def _first_reasons(error: BaseException) -> list[str]:
    if isinstance(error, cattrs.errors.BaseValidationError):
        found: list[str] = []
        for inner in error.exceptions:
            notes = [
                note
                for note in getattr(inner, "__notes__", [])
                if isinstance(note, cattrs.errors.AttributeValidationNote)
            ]
            prefix = f"{notes[0].name.replace('_', '-')}: " if notes else ""
            found += [prefix + reason for reason in _first_reasons(inner)]
        return found
    return [str(error)]


def _strict(kind: type[Any]) -> Callable[[Any, Any], Any]:
    """Accept a value of `kind` only: ``int("3")`` would hide a mistake in a spec file."""

    def take(value: Any, _: Any) -> Any:
        good = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not good:
            raise ValueError(f"expected {kind.__name__}, got {value!r}")
        return value

    return take


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal


def _one_of(value: Any, hint: Any) -> Any:
    if value not in typing.get_args(hint):
        raise ValueError(f"must be one of {', '.join(map(str, typing.get_args(hint)))}; not {value!r}")
    return value


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (int, float, str, bool):
        converter.register_structure_hook(kind, _strict(kind))
    converter.register_structure_hook_func(_is_literal, _one_of)
    return converter


_CONVERTER = _make_converter()
