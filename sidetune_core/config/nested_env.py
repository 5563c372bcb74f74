"""An env within another env, whose options are options of the outer one: ``classes-per-task=10``."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import attrs

from sidetune_core.config.choice import Choice
from sidetune_core.config.options import OptionInfo, alternatives, describe, imported_names, unknown_option
from sidetune_core.config.resolve import ResolvedComponent, resolve_env
from sidetune_core.errors import OptionError


@attrs.frozen
class NestedEnv:
    """The class of an env and its options."""

    name: str
    cls: type[Any]
    config: Any

    @classmethod
    def of(cls, name: str, settings: Sequence[str] = (), file: str = "") -> NestedEnv:
        """An env by its name.

        Args:
            name: of an installed env; or ``module:Class``, which the outer env declares as code to import
                (see `option`).
            settings: its options, as ``NAME=VALUE``; lists are divided by commas.
            file: where the name is read from, if the user has not typed it: code is then not imported.

        Raises:
            PluginError, OptionError: with what to type next.
            UntrustedCode: a file names code.
        """
        resolved = resolve_settings(name, settings, file=file)
        if code := [named for _, named in imported_names(resolved.config)]:
            raise OptionError(f"env '{name}' imports code ({code[0]}), which an env within another may not")
        return cls(name, resolved.cls, resolved.config)

    @property
    def settings(self) -> tuple[str, ...]:
        """The options that have other values than their defaults, as `of` reads them."""
        values = _flat(self.config)
        return tuple(
            f"{info.name}={_as_text(values[info.name])}"
            for info in describe(type(self.config))
            if values[info.name] != info.default
        )


def resolve_settings(
    name: str, settings: Sequence[str], recorded: Mapping[str, Any] | None = None, file: str = ""
) -> ResolvedComponent:
    """An env by its name and typed options.

    Args:
        name: of an installed env, or ``module:Class``.
        settings: its options, as ``NAME=VALUE``; lists are divided by commas.
        recorded: options that were not typed, which are used where `settings` has no others; they may not
            name code to import.
        file: see `NestedEnv.of`.

    Raises:
        PluginError, OptionError: with what to type next.
        UntrustedCode: a file, or a recorded option, names code.
    """
    found = resolve_env(Choice(name, file=file))
    values = _values(found.cls.Config, settings, found.owner)
    rest = {key: value for key, value in (recorded or {}).items() if key not in values}
    if rest:
        resolve_env(Choice(name, rest, file=file or "the recorded options"))
    return resolve_env(Choice(name, {**rest, **values}, file=file))


def _values(config: type[Any], settings: Sequence[str], owner: str) -> dict[str, Any]:
    options = {info.name: info for info in describe(config)}
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip().replace("_", "-")
        if not equals:
            raise OptionError(f"{owner}: '{setting}' is no option with its value; write NAME=VALUE")
        if name not in options:
            raise unknown_option(owner, name, config)
        if name in values:
            raise OptionError(f"{owner}: option '{name}' is given twice")
        values[name] = _from_text(options[name], text, owner)
    return values


def _from_text(info: OptionInfo, text: str, owner: str) -> Any:
    """A value of an option's type, as on a command line."""
    hints = alternatives(info.hint)
    if types.NoneType in hints and text.lower() == "none":
        return None
    (hint,) = [hint for hint in hints if hint is not types.NoneType]
    try:
        if get_origin(hint) is tuple:
            entries = json.loads(text) if text.startswith("[") else text.split(",")
            return [_scalar(get_args(hint)[0], str(entry).strip()) for entry in entries]
        return _scalar(hint, text)
    except ValueError as error:
        raise OptionError(f"{owner}: {info.name} must be {info.type}, not '{text}'") from error


def _scalar(hint: Any, text: str) -> Any:
    if get_origin(hint) is Literal:
        return next((value for value in get_args(hint) if str(value) == text), text)
    if hint is bool:
        truth: Mapping[str, bool] = {"true": True, "false": False}
        if text.lower() not in truth:
            raise ValueError(text)
        return truth[text.lower()]
    return hint(text) if hint in (int, float) else text


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    values: dict[str, Any] = {}
    for field in attrs.fields(type(config)):
        name, value = prefix + field.name.replace("_", "-"), getattr(config, field.name)
        values |= _flat(value, f"{name}.") if attrs.has(type(value)) else {name: value}
    return values


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return json.dumps([str(entry) for entry in value])
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
