"""A command line as options with their values, and its former spellings under their present names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.config.option_tables import MOVED_OPTIONS
from sidetune_core.config.options import (
    OptionInfo,
    Renamed,
    describe,
    former_options,
    split_entries,
    warn_former,
)
from sidetune_core.errors import OptionError


@attrs.frozen
class Argument:
    """An option with the words that follow it, up to the next option."""

    typed: str
    """As it was typed: ``--env.frame_stack``; empty for words before the first option."""
    values: tuple[str, ...] = ()
    joined: bool = False
    """Whether the first value was typed after ``=``."""

    @property
    def name(self) -> str:
        """Without ``--`` and with ``-`` for ``_``: ``env.frame-stack``."""
        return self.typed.removeprefix("--").replace("_", "-")

    @property
    def words(self) -> list[str]:
        """The words of the command line."""
        if self.joined:
            return [f"{self.typed}={self.values[0]}", *self.values[1:]]
        return [*filter(None, [self.typed]), *self.values]


def split_arguments(argv: Sequence[str]) -> list[Argument]:
    """A command line as options with their values."""
    arguments: list[Argument] = []
    for word in argv:
        needs_value = bool(arguments) and arguments[-1].typed != "" and not arguments[-1].values
        if word.startswith("--") or word == "-h" or (_is_short(word) and not needs_value):
            name, equals, value = word.partition("=")
            arguments.append(Argument(name, (value,) if equals else (), bool(equals)))
        elif arguments:
            last = arguments[-1]
            arguments[-1] = attrs.evolve(last, values=(*last.values, word))
        else:
            arguments.append(Argument("", (word,)))
    return arguments


def _is_short(word: str) -> bool:
    """Whether a word is an option with one dash, such as ``-h``, and not a negative number."""
    return re.match(r"-[A-Za-z]", word) is not None and word not in ("-inf", "-nan")


@attrs.frozen
class Spellings:
    """The present and former options of a command line, by name with their slot: ``env.frame-stack``."""

    options: Mapping[str, OptionInfo]
    former: Mapping[str, Renamed]

    def __contains__(self, name: str) -> bool:
        """Whether an option, or the negation of a switch, has or had this name."""
        positive = _positive(name)
        return any(known in self.options or known in self.former for known in (name, positive))

    def option_of(self, argument: Argument) -> str | None:
        """The present option that an argument with its present spelling sets."""
        for name in (argument.name, _positive(argument.name)):
            if name in self.options:
                return name
        return None

    def present(self, arguments: Iterable[Argument]) -> list[Argument]:
        """The arguments with former spellings replaced; each issues a `FormerSpelling` warning.

        Raises:
            OptionError: an option is given by its former and by its present name.
        """
        arguments = list(arguments)
        typed = {name for argument in arguments for name in (argument.name, _positive(argument.name))}
        return [self._present(argument, typed) for argument in arguments]

    def _present(self, argument: Argument, typed: set[str]) -> Argument:
        name = argument.name
        negated = name not in self.options and name not in self.former
        if negated:
            name = _positive(name)
        value: Any = (not negated) if not argument.values else " ".join(argument.values)
        renamed = self.former.get(name)
        if renamed is not None and (name not in self.options or renamed.changes(value)):
            if renamed.to != name and renamed.to in typed:
                raise OptionError(
                    f"{argument.typed} is the former name of --{renamed.to}, and both are given; "
                    f"leave out {argument.typed}"
                )
            present = self._spell(renamed.to, renamed.present(value), argument, renamed)
            mapped = renamed.changes(value)
            warn_former(_shown(argument, mapped), _shown(present, mapped))
            return present
        option = self.options.get(name)
        if option is None:
            return argument
        if option.is_bool and option.type != "bool" and not argument.values:  # a switch with a third value
            return Argument(f"--{name}", (str(not negated),))
        separator = renamed.separator if renamed is not None else ","
        is_text = option.is_tuple and len(argument.values) == 1
        if is_text and separator and separator in argument.values[0]:
            present = Argument(argument.typed, tuple(split_entries(argument.values[0], renamed)))
            warn_former(_shown(argument, True), _shown(present, True))
            return present
        return argument

    def _spell(self, name: str, value: Any, argument: Argument, renamed: Renamed) -> Argument:
        """The present spelling of an option and its value."""
        option = self.options.get(name)
        if option is not None and option.type == "bool":
            truth = {"true": True, "false": False}.get(str(value).lower())
            if truth is not None:
                return Argument(f"--{name}" if truth else f"--{_negative(name)}")
        if argument.values and value == " ".join(argument.values):
            values, joined = argument.values, argument.joined
        else:
            values, joined = (tuple(value) if isinstance(value, list | tuple) else (str(value),)), False
        if option is not None and option.is_tuple and len(values) == 1 and renamed.separator:
            values, joined = tuple(split_entries(values[0], renamed)), False
        return Argument(f"--{name}", values, joined)


def make_spellings(configs: Mapping[str, type[Any]]) -> Spellings:
    """The options of some ``Config`` classes by slot."""
    options: dict[str, OptionInfo] = {}
    former: dict[str, Renamed] = {}
    for slot, config in configs.items():
        options |= {f"{slot}.{info.name}": info for info in describe(config)}
        for name, renamed in former_options(config).items():
            former[f"{slot}.{name}"] = attrs.evolve(renamed, to=f"{slot}.{renamed.to}")
    former |= {name: Renamed(to) for name, to in MOVED_OPTIONS.items() if name.partition(".")[0] in configs}
    return Spellings(options, former)


def _positive(name: str) -> str:
    """``learner.norm`` for ``learner.no-norm``."""
    tables, dot, last = name.rpartition(".")
    return f"{tables}{dot}{last.removeprefix('no-')}"


def _negative(name: str) -> str:
    """``learner.no-norm`` for ``learner.norm``."""
    tables, dot, last = name.rpartition(".")
    return f"{tables}{dot}no-{last}"


def _shown(argument: Argument, with_values: bool) -> str:
    return " ".join([argument.typed, *(argument.values if with_values else ())])
