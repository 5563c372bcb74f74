"""The second stage of the command line: the values of all options, read by tyro."""

from __future__ import annotations

import io
import re
import typing
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import attrs

from sidetune_core.config.arguments import Argument, Spellings
from sidetune_core.config.argv_names import owner_of, shown_name
from sidetune_core.config.argv_options import GENERAL, OF_SPEC, PROGRAM
from sidetune_core.config.defaults import DEFAULTS
from sidetune_core.config.differences import unflatten
from sidetune_core.config.kinds import KINDS
from sidetune_core.config.options import is_nested
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import OptionError
from sidetune_core.io.printable import COLOUR, colours_allowed


def second_stage(
    arguments: Sequence[Argument], spec: RunSpec, defaults: Mapping[str, Any], description: str
) -> tuple[Any, list[str]]:
    """General options, then one group for each component and each option table; and the words left over."""
    if all(map(_is_plain, arguments)):
        return _plain_values(arguments, spec, defaults), []
    import tyro

    fields: dict[str, Any] = {}
    for known in KINDS:
        used = known.name in defaults or not set(defaults) & set(DEFAULTS)
        name = shown_name(spec, known.name) if used else None
        hint: Any = Annotated[str | None, tyro.conf.arg(name=known.name, help=known.summary, metavar="NAME")]
        fields[f"{known.name}_name"] = attrs.field(type=hint, default=name)
    for name, (annotation, default, help) in GENERAL.items():
        hint = Annotated[annotation, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=help)]
        fields[name] = attrs.field(type=hint, default=getattr(spec, name) if name in OF_SPEC else default)
    for slot, config in defaults.items():
        fields[slot] = attrs.field(type=type(config), default=config)
    options: type[Any] = attrs.make_class("Options", fields, kw_only=True)
    owners: dict[type[Any], str] = {}
    for slot, config in defaults.items():
        owners |= _owners(type(config), owner_of(spec, slot))
    printed = io.StringIO()
    try:
        with colours_allowed(), redirect_stderr(printed):  # help has colours; errors are ours
            parsed, unknown = tyro.cli(
                options,
                prog=PROGRAM,
                description=description,
                args=[word for argument in arguments for word in argument.words],
                return_unknown_args=True,
                registry=_tyro_rules(owners),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise OptionError(_in_one_line(printed.getvalue())) from stop
    return parsed, unknown


def _in_one_line(box: str) -> str:
    """The message in a box of tyro's, without the option's help text."""
    parts: list[list[str]] = [[]]  # between rules; the first is the title, if it has a line of its own
    for line in re.sub(COLOUR, "", box).splitlines():
        content = line.strip("│| ")
        if re.search("[─-]{5}", content):
            parts.append([])
        elif content:
            parts[-1].append(content)
    filled = [" ".join(" ".join(part).split()) for part in parts if part]
    is_titled = len(filled) > 1 and bool(parts[0])
    text = (filled or [""])[is_titled]
    if match := re.fullmatch(
        r"Error parsing (\S+): (invalid literal for int|could not convert).*: '(.*)'", text
    ):
        kind = "whole number" if "int" in match[2] else "number"
        text = f"{match[1]} takes a {kind}, not '{match[3]}'"
    return f"{text.rstrip('.') or box.strip()}. See {PROGRAM} --help"


def _is_plain(argument: Argument) -> bool:
    """Whether the value of an argument is the word that was typed, so that nothing has to be converted."""
    if argument.name == "quiet":
        return not argument.values
    is_word = argument.name in DEFAULTS or argument.name in ("spec", "out")
    return is_word and len(argument.values) == 1 and not argument.values[0].startswith("-")


def _plain_values(arguments: Sequence[Argument], spec: RunSpec, defaults: Mapping[str, Any]) -> Any:
    """What tyro makes of such arguments; its import, and its groups for all options of a run, take 0.2 s."""
    values = {name: default for name, (_, default, _) in GENERAL.items()}
    values |= {name: getattr(spec, name) for name in OF_SPEC} | dict(defaults)
    for argument in arguments:
        if argument.name == "quiet":
            values["quiet"] = True
        elif argument.name in ("spec", "out"):
            values[argument.name] = Path(argument.values[0])
    return SimpleNamespace(**values)


def set_options(
    arguments: Sequence[Argument], spellings: Spellings, parsed: Any
) -> dict[str, dict[str, Any]]:
    """The values of the options that the command line sets, by slot and name, nested."""
    values: dict[str, Any] = {}
    for argument in arguments:
        option = spellings.option_of(argument)
        if option is not None:
            path = option.replace("-", "_")
            value = parsed
            for attribute in path.split("."):
                value = getattr(value, attribute)
            values[path] = value
    return unflatten(values)


def _owners(config: type[Any], owner: str) -> dict[type[Any], str]:
    """The owner of the options of a ``Config`` class and of those nested in it."""
    owners = {config: owner}
    for name, hint in typing.get_type_hints(config).items():
        if is_nested(hint):
            owners |= _owners(hint, f"{owner}: {name.replace('_', '-')}")
    return owners


def _tyro_rules(owners: Mapping[type[Any], str]) -> Any:
    """Rules for tyro: help texts from `option`, and errors about values with the owner of the option."""
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

    rules = ConstructorRegistry()

    @rules.struct_rule
    def attrs_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not (isinstance(info.type, type) and attrs.has(info.type)):
            return None
        hints = typing.get_type_hints(info.type, include_extras=True)
        config = info.type

        def instantiate(**values: Any) -> Any:
            try:
                return config(**values)
            except ValueError as error:
                raise OptionError(f"{owners.get(config, PROGRAM)}: {error}") from error

        is_default = isinstance(info.default, info.type)
        return StructConstructorSpec(
            instantiate=instantiate,
            fields=tuple(
                StructFieldSpec(
                    name=field.name,
                    type=hints.get(field.name, field.type),
                    default=getattr(info.default, field.name) if is_default else field.default,
                    helptext=field.metadata.get("help"),
                )
                for field in attrs.fields(info.type)
            ),
        )

    return rules
