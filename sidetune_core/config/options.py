"""Options: declared once, for the command line, spec files, validation, `describe` and the run record.

A plugin's ``Config`` is a frozen attrs class whose fields are made with `option`:

    @attrs.frozen
    class Config:
        coef: float = option(1e4, "weight of the penalty", at_least(0))
        domains: tuple[str, ...] = option(("normal",), "domains to predict")
        ppo: PPOOptions = option(PPOOptions(), "options of PPO")

An option is a bool, int, float, str, path or literal, a tuple of these, None where the type allows it, or
another frozen attrs class, whose options have dotted names: ``ppo.clip``.
"""

from __future__ import annotations

import json
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

import attrs
import cattrs
import cattrs.errors

from sidetune_core.config.differences import merged, unflatten
from sidetune_core.errors import OptionError, suggest
from sidetune_core.io.strict_json import NOT_FINITE, as_text

REMOVAL = "0.3"
"""The version in which former spellings of options stop working."""

SUPPORTED_TYPES = (
    "bool, int, float, str, Path, Literal of strings or numbers, tuple[T, ...] of these, T | None, "
    "and another frozen attrs class"
)

T = TypeVar("T")
Check = Callable[[Any, "attrs.Attribute[Any]", Any], Any]


def option(
    default: T,
    help: str,
    *checks: Check,
    imports: Callable[[T], Iterable[str]] | None = None,
    former: T | Any = attrs.NOTHING,
) -> T:
    """A field of a plugin's ``Config``.

    Args:
        default: value when the user sets nothing; every option has one.
        help: what it does, with unit and range, in one sentence that begins in lower case.
        checks: validators such as `at_least`; ``None`` passes every check.
        imports: the names in a value that the component imports as code. Where a file gives the value,
            they are refused without ``--trust-local-code``.
        former: value in runs and demonstrations that were recorded before there was this option, where that
            is not its default.
    """
    validator: Any = attrs.validators.optional(list(checks)) if checks else None
    metadata = {"help": help, "imports": imports, "former": former}
    return attrs.field(default=default, validator=validator, metadata=metadata)


def at_least(low: float) -> Check:
    """The value is `low` or more."""
    return _bound(lambda value: value >= low, f"at least {low:.10g}")


def more_than(low: float) -> Check:
    """The value is greater than `low`."""
    return _bound(lambda value: value > low, f"more than {low:.10g}")


def at_most(high: float) -> Check:
    """The value is `high` or less."""
    return _bound(lambda value: value <= high, f"at most {high:.10g}")


def _bound(holds: Callable[[Any], bool], bound: str) -> Check:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not holds(value):  # NaN fails every comparison, and so is refused
            raise ValueError(f"{field.name.replace('_', '-')} must be {bound}, not {value}")

    return check


class FormerSpelling(FutureWarning):
    """An option was given by a former name or value, which a later version will refuse."""


@attrs.frozen
class Renamed:
    """The present spelling of an option of an earlier version.

    A ``Config`` lists its own in ``former_options: ClassVar[Mapping[str, Renamed]]``, by former name:

        former_options = {"blind": Renamed("mask-images"), "weights": Renamed("weights", {"seed": "authors"})}
    """

    to: str
    """The present name, dotted where the option is nested: ``ppo.clip``."""
    values: Mapping[Any, Any] = attrs.field(factory=dict)
    """Present values by former ones; all others are unchanged."""
    separator: str = ","
    """What separated the entries of a tuple while it was one string; empty where one entry may be written
    without a list."""

    def present(self, value: Any) -> Any:
        """The present value for a former one, which may be the text of a command line."""
        for former, now in self.values.items():
            if _same_value(former, value):
                return now
        return value

    def changes(self, value: Any) -> bool:
        """Whether this value has another spelling now."""
        return any(_same_value(former, value) for former in self.values)


def _same_value(former: Any, value: Any) -> bool:
    if isinstance(value, str) and not isinstance(former, str):
        return str(former).lower() == value.lower()
    return type(former) is type(value) and bool(former == value)


@attrs.frozen
class OptionInfo:
    """One option as `sidetune describe` shows it."""

    name: str
    """With dots where it is nested: ``ppo.clip``."""
    type: str
    default: Any
    help: str
    hint: Any = attrs.field(default=None, repr=False)
    """The type itself."""

    @property
    def is_tuple(self) -> bool:
        return any(typing.get_origin(hint) is tuple for hint in alternatives(self.hint))

    @property
    def is_bool(self) -> bool:
        return bool in alternatives(self.hint)


def describe(config: type[Any]) -> list[OptionInfo]:
    """The options of a ``Config`` class, in their order of declaration; former names are left out."""
    return list(_describe(config, "", None))


def _describe(config: type[Any], prefix: str, defaults: Any) -> Iterator[OptionInfo]:
    hints = typing.get_type_hints(config)
    for field in attrs.fields(config):
        name, hint = prefix + _dashed(field.name), hints[field.name]
        default = field.default if defaults is None else getattr(defaults, field.name)
        if is_nested(hint):
            yield from _describe(hint, f"{name}.", default)
        else:
            yield OptionInfo(name, type_words(hint), default, field.metadata.get("help", ""), hint)


def imported_names(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each option of a ``Config`` whose value names code, with the first name (see `option`)."""
    for field in attrs.fields(type(config)):
        name, value = prefix + _dashed(field.name), getattr(config, field.name)
        if attrs.has(type(value)):
            yield from imported_names(value, f"{name}.")
        elif (imports := field.metadata.get("imports")) is not None:
            yield from ((name, code) for code in list(imports(value))[:1])


def with_former_defaults(config: type[Any], values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Recorded values of a ``Config`` with the options that did not exist yet, where their value was another
    than the default (see `option`).

    Args:
        config: the frozen attrs class.
        values: as they were recorded.
        owner: who has these options, for messages.
    """
    formers = {
        field.name: field.metadata["former"]
        for field in attrs.fields(config)
        if field.metadata.get("former", attrs.NOTHING) is not attrs.NOTHING
    }
    if not formers:
        return dict(values)
    given = flat_options(config, values, owner, recorded=True)
    missing = {name: former for name, former in formers.items() if _dashed(name) not in given}
    return {**values, **missing}


def former_options(config: type[Any]) -> dict[str, Renamed]:
    """Former names of the options of a ``Config`` class, of its base classes and of the options nested in
    it."""
    former: dict[str, Renamed] = {}
    for name, hint in typing.get_type_hints(config).items():
        if is_nested(hint):
            for nested, renamed in former_options(hint).items():
                to = f"{_dashed(name)}.{renamed.to}"
                former[f"{_dashed(name)}.{nested}"] = attrs.evolve(renamed, to=to)
    for cls in reversed(config.__mro__):
        former |= vars(cls).get("former_options", {})
    return former


def is_nested(hint: Any) -> bool:
    """Whether an option of this type is a group of options."""
    return isinstance(hint, type) and attrs.has(hint)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; another type by itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def type_words(hint: Any) -> str:
    """A type as a user reads it: ``float``, ``path | none``, ``adam | sgd``, ``list of str``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_words(alternative) for alternative in arguments)
    if origin is tuple:
        return f"list of {type_words(arguments[0])}"
    if hint is type(None):
        return "none"
    return getattr(hint, "__name__", str(hint)).lower()


def unsupported_options(config: type[Any], prefix: str = "") -> list[str]:
    """The options whose type is not supported, each with its type: ``names: set[str]``."""
    hints = typing.get_type_hints(config)
    unsupported: list[str] = []
    for field in attrs.fields(config):
        name, hint = prefix + field.name, hints[field.name]
        if is_nested(hint) and attrs.inspect(hint).is_frozen:
            unsupported += unsupported_options(hint, f"{name}.")
        elif not _is_supported(hint):
            unsupported.append(f"{name}: {hint.__name__ if isinstance(hint, type) else hint}")
    return unsupported


def _is_supported(hint: Any) -> bool:
    kinds = [alternative for alternative in alternatives(hint) if alternative is not type(None)]
    if len(kinds) != 1:
        return False
    if typing.get_origin(kinds[0]) is tuple:
        entries = typing.get_args(kinds[0])
        return len(entries) == 2 and entries[1] is ... and _is_scalar(entries[0])
    return _is_scalar(kinds[0])


def _is_scalar(hint: Any) -> bool:
    if _is_literal(hint):
        return all(isinstance(value, str | int | float) for value in typing.get_args(hint))
    return hint in (bool, int, float, str, Path)


def structure(config: type[T], values: Mapping[str, Any], owner: str, recorded: bool = False) -> T:
    """Make a ``Config`` from plain values, as a spec file or Python code gives them.

    Args:
        config: the frozen attrs class.
        values: option name (with ``_`` or ``-``) to value; nested options are tables, or have dotted names.
        owner: who has these options, for the message: ``learner 'ewc'``.
        recorded: the values come from a run folder, so former spellings are accepted without a warning.

    Raises:
        OptionError: an option is unknown, of the wrong type, or out of range.
    """
    current = flat_options(config, values, owner, recorded)
    options = {info.name: info for info in describe(config)}
    for name, value in current.items():
        if name in options:
            continue
        if any(known.startswith(f"{name}.") for known in options):
            raise OptionError(f"{owner}: '{name}' is a table of options, not {value!r}")
        raise unknown_option(owner, name, config)
    groups = {name.rpartition(".")[0] for name in current}
    complete = {info.name: info.default for info in options.values() if _is_within(info.name, groups)}
    table = unflatten({name.replace("-", "_"): value for name, value in {**complete, **current}.items()})
    try:
        return _CONVERTER.structure(table, config)
    except cattrs.errors.BaseValidationError as error:
        reasons = "; ".join(_first_reasons(error))
        raise OptionError(f"{owner}: {reasons}") from error


def _is_within(name: str, groups: set[str]) -> bool:
    """Whether a nested option lies in a top-level group of which some option is set."""
    top, dot, _ = name.partition(".")
    return bool(dot) and any(group.partition(".")[0] == top for group in groups)


def respell(
    config: type[Any], values: Mapping[str, Any], owner: str, recorded: bool = False
) -> dict[str, Any]:
    """Values under the present names, nested, with ``_`` for ``-``; each former spelling is a
    `FormerSpelling` warning.

    Options that do not exist are kept as they are.

    Raises:
        OptionError: an option is given by its former and by its present name.
    """
    flat = flat_options(config, values, owner, recorded)
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        nested = merged(nested, unflatten({name.replace("-", "_"): value}))
    return nested


def flat_options(
    config: type[Any], values: Mapping[str, Any], owner: str, recorded: bool = False
) -> dict[str, Any]:
    """Values by present dotted name, with ``-`` for ``_``; see `respell`."""
    options = {info.name: info for info in describe(config)}
    former = former_options(config)
    groups = {
        ".".join(name.split(".")[:depth])
        for name in (*options, *former)
        for depth in range(1, name.count(".") + 1)
    }
    warn = _no_warning if recorded else warn_former
    given = dict(_flatten(values, groups))
    current: dict[str, Any] = {}
    for name, value in given.items():
        renamed = former.get(name)
        present = name
        if renamed is not None and (name not in options or renamed.changes(value)):
            present, now = renamed.to, renamed.present(value)
            warn(f"{owner}: {_spelled(name, value, renamed)}", _spelled(present, now, renamed))
            value = now
        if present in current or (present != name and present in given):
            raise OptionError(
                f"{owner}: '{name}' is the former name of '{present}', and both are given; leave out '{name}'"
            )
        is_entry = isinstance(value, str | Path) and present in options and options[present].is_tuple
        if is_entry and (any_former := renamed or former.get(present)) and not any_former.separator:
            value = [value]
        elif is_entry and isinstance(value, str):
            entries = split_entries(value, renamed)
            warn(f"{owner}: {present} = {json.dumps(value)}", f"{present} = {json.dumps(entries)}")
            value = _entries_of(options[present].hint, entries)
        current[present] = value
    return current


def _flatten(values: Mapping[str, Any], groups: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = prefix + _dashed(key)
        if attrs.has(type(value)):
            value = attrs.asdict(value, recurse=False)
        if isinstance(value, Mapping) and name in groups:
            yield from _flatten(value, groups, f"{name}.")
        else:
            yield name, value


def split_entries(text: str, renamed: Renamed | None = None) -> list[str]:
    """The entries of a tuple that is written as one string, its former spelling, or as a JSON list."""
    if text.startswith("["):
        with suppress(ValueError):
            return [str(entry) for entry in json.loads(text)]
    separator = renamed.separator if renamed is not None else ","
    return [entry for part in text.split(separator) if (entry := part.strip())]


def _entries_of(hint: Any, entries: list[str]) -> list[Any]:
    """Entries of a former string, as numbers if the tuple is of numbers; the converter refuses other text."""
    (kind,) = {typing.get_args(one)[0] for one in alternatives(hint) if typing.get_origin(one) is tuple}
    if kind not in (int, float):
        return list(entries)
    numbers: list[Any] = []
    for entry in entries:
        try:
            numbers.append(kind(entry))
        except ValueError:
            numbers.append(entry)
    return numbers


def warn_former(former: str, present: str) -> None:
    """Issue the warning about a former spelling, at the line outside of this package that has it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("sidetune_core"):
        level, frame = level + 1, frame.f_back
    message = f"{former} is now {present}; the old spelling stops working in {REMOVAL}"
    warnings.warn(message, FormerSpelling, stacklevel=level)


def _no_warning(former: str, present: str) -> None:
    """Issue no warning: the former spelling is in a run folder."""


def _spelled(name: str, value: Any, renamed: Renamed) -> str:
    return f"{name} = {json.dumps(value, default=str)}" if renamed.values else name


def unstructure(config: Any) -> dict[str, Any]:
    """The plain values of a ``Config``, fit for JSON."""
    return cast(dict[str, Any], _CONVERTER.unstructure(config))


def unknown_option(
    owner: str, name: str, config: type[Any], moved: Mapping[str, str] = MappingProxyType({})
) -> OptionError:
    """The error for an option that `owner` does not have.

    Args:
        owner: who has the options of `config`: ``learner 'ewc'``.
        name: what was typed.
        config: the frozen attrs class.
        moved: where options that are now elsewhere went, by former name.
    """
    name = _dashed(name)
    shown = sorted(info.name for info in describe(config))
    former = {old: renamed.to for old, renamed in former_options(config).items() if old not in shown}
    hint = suggest(name, shown, {**former, **moved})
    available = f"Its options: {', '.join(shown)}" if shown else "It has no options"
    return OptionError(f"{owner} has no option '{name}'.{hint} {available}")


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _first_reasons(error: BaseException) -> list[str]:
    if not isinstance(error, cattrs.errors.BaseValidationError):
        return [str(error)]
    reasons: list[str] = []
    for inner in error.exceptions:
        notes = [
            note
            for note in getattr(inner, "__notes__", [])
            if isinstance(note, cattrs.errors.AttributeValidationNote)
        ]
        prefix = f"{_dashed(notes[0].name)}: " if notes else ""
        reasons += [prefix + reason for reason in _first_reasons(inner)]
    return reasons


def _strict(kind: type[Any]) -> Callable[[Any, Any], Any]:
    """Accept a value of `kind` only: ``int("3")`` would hide a mistake in a spec file."""

    def take(value: Any, _: Any) -> Any:
        if kind is float and value in NOT_FINITE:  # JSON has no such numbers
            return float(value)
        good = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not good:
            raise ValueError(f"expected {kind.__name__}, got {value!r}")
        return value

    return take


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _is_path(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Path)


def _entries(converter: cattrs.Converter, value: Any, hint: Any) -> tuple[Any, ...]:
    """A tuple from a list of values of its kind."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list, got {value!r}")
    kind = typing.get_args(hint)[0]
    return tuple(converter.structure(entry, kind) for entry in value)


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
    converter.register_structure_hook_func(_is_tuple, lambda value, hint: _entries(converter, value, hint))
    converter.register_unstructure_hook_func(
        _is_tuple, lambda value: [converter.unstructure(entry) for entry in value]
    )
    converter.register_unstructure_hook_func(_is_path, str)
    converter.register_unstructure_hook(float, as_text)
    converter.register_structure_hook_func(_is_literal, _one_of)
    return converter


_CONVERTER = _make_converter()
