"""Answers to words of a command line that do not exist: what was meant, and the corrected command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.config.arguments import Argument, Spellings
from sidetune_core.config.argv_mistakes import (
    Mistake,
    find_mistake,
    is_list_of_numbers,
    meant_by,
    several_values,
)
from sidetune_core.config.argv_names import owner_of, shown_name
from sidetune_core.config.argv_options import GENERAL, PROGRAM
from sidetune_core.config.defaults import DEFAULTS
from sidetune_core.config.option_tables import MOVED_OPTIONS, TABLES
from sidetune_core.config.options import describe, unknown_option
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import OptionError, SidetuneError, shorten, suggest

Parse = Callable[[Sequence[str]], object]
"""Reads a corrected command line, and raises a `SidetuneError` if that is wrong too."""

NAMED = 4
"""Mistakes that are named in a message."""

OF_SWEEPS_TOO = ("help", "-h", "quiet", "debug", "resume", "extend", "keep", "measure", "first-tasks")
"""General options that are left out of a suggested sweep, which does not have them."""


def check_words(arguments: Sequence[Argument], parse: Parse) -> None:
    """Check for words of other programs, names without an option, and lists of values.

    Args:
        arguments: as they were typed.
        parse: reads the corrected arguments.

    Raises:
        OptionError: there are such words; it has the corrected command.
    """
    mistakes: list[Mistake] = []
    corrected: list[Argument] = []
    for argument in arguments:
        if not argument.typed:
            meant = [meant_by(value) for value in argument.values]
            if None in meant:  # the words that have no meaning are reported with all others
                return
            known = [mistake for mistake in meant if mistake is not None]
            mistakes += known
            corrected += _distinct(known, arguments)
        elif mistake := find_mistake(argument):
            mistakes.append(mistake)
            corrected += mistake.instead
        else:
            corrected.append(argument)
    if mistakes:
        raise _answer(mistakes, corrected, parse)


def check_values(arguments: Sequence[Argument], spellings: Spellings) -> None:
    """Check that no option that takes one number has a list of them.

    Raises:
        OptionError: one has; it has the command of a sweep.
    """
    mistakes: list[Mistake] = []
    corrected: list[Argument] = []
    for argument in arguments:
        option = spellings.options.get(argument.name)
        is_number = option is not None and not option.is_tuple and not option.is_bool
        if is_number and "str" not in option.type and any(map(is_list_of_numbers, argument.values)):  # type: ignore[union-attr]
            mistakes.append(several_values(argument))
            corrected += mistakes[-1].instead
        else:
            corrected.append(argument)
    if mistakes:
        raise _answer(mistakes, corrected, lambda words: None)


def unknown_arguments(
    arguments: Sequence[Argument],
    unknown: Sequence[str],
    configs: Mapping[str, type[Any]],
    spec: RunSpec,
    spellings: Spellings,
    parse: Parse | None,
) -> OptionError:
    """The error for words that do not exist.

    Args:
        arguments: the command line.
        unknown: the words of it that are left over when it has been read.
        configs: ``Config`` classes by slot and table.
        spec: its components.
        spellings: their options.
        parse: reads the corrected arguments; None if the words are no command line of `PROGRAM`.
    """
    left = list(unknown)
    for argument in arguments:
        if argument.typed and argument.words[0] in left:
            for word in argument.words:
                left.remove(word)
    mistakes: list[Mistake | OptionError] = []
    corrected: list[Argument] = []
    for argument in arguments:
        if argument.typed and argument.words[0] in unknown:
            mistakes.append(_unknown_option(argument, configs, spec, spellings))
            corrected += getattr(mistakes[-1], "instead", ())
            continue
        kept = [value for value in argument.values if value not in left]
        extra = [value for value in argument.values if value in left]
        corrected += [attrs.evolve(argument, values=tuple(kept))] if argument.typed else []
        for word in extra:
            if word.lower() in ("true", "false") and argument.typed:
                corrected[-1], mistake = _switch(argument, word)
                mistakes.append(mistake)
            else:
                mistakes.append(meant_by(word) or _no_word(word))
                corrected += getattr(mistakes[-1], "instead", ())[:1]
    mistakes += [] if mistakes else [_no_word(word) for word in left]
    errors = [mistake for mistake in mistakes if isinstance(mistake, OptionError)]
    known = [mistake for mistake in mistakes if isinstance(mistake, Mistake)]
    if not known and len(errors) == 1:
        return errors[0]
    if errors or parse is None:
        texts = [str(one) if isinstance(one, OptionError) else _text(one) for one in mistakes]
        more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
        return OptionError("; ".join(text.rstrip(".") for text in texts[:NAMED]) + more)
    return _answer(known, corrected, parse)


def _answer(mistakes: Sequence[Mistake], corrected: Sequence[Argument], parse: Parse) -> OptionError:
    """The error for mistakes that can be corrected."""
    words = [word for argument in corrected for word in argument.words]
    if len(mistakes) == 1:
        what = _text(mistakes[0])
    else:
        answers = [f"'{one.typed}' ({one.answer.rstrip('.')})" for one in mistakes]
        what = f"{PROGRAM} does not know {len(mistakes)} of these words: {shorten(answers, NAMED)}."
    if any(mistake.sweeps for mistake in mistakes):
        words = [
            word for argument in corrected if argument.name not in OF_SWEEPS_TOO for word in argument.words
        ]
        return OptionError(f"{what} Type: {shlex.join(['sidetune', 'sweep', *words])}")
    words = [word for word in words if word not in ("--help", "-h")]
    try:
        parse(words)
    except SidetuneError as error:
        return OptionError(f"{what} With that corrected, another error is left: {error}")
    return OptionError(f"{what} Type: {shlex.join([PROGRAM, *words])}")


def _text(mistake: Mistake) -> str:
    if mistake.sweeps:
        return f"{PROGRAM} makes one run, and '{mistake.typed}' has several values. {mistake.answer}"
    return f"{PROGRAM} does not know '{mistake.typed}'. {mistake.answer}"


def _distinct(mistakes: Sequence[Mistake], arguments: Sequence[Argument]) -> list[Argument]:
    """Names without an option as options, one for each slot: ``mlp mlp`` is a base and a side."""
    taken = {argument.name for argument in arguments}
    chosen: list[Argument] = []
    for mistake in mistakes:
        free = [argument for argument in mistake.instead if argument.name not in taken]
        chosen += free[:1]
        taken |= {argument.name for argument in free[:1]}
    return chosen


def _unknown_option(
    argument: Argument, configs: Mapping[str, type[Any]], spec: RunSpec, spellings: Spellings
) -> Mistake | OptionError:
    typed = argument.typed
    slot, dot, option = typed.removeprefix("--").partition(".")
    if dot and slot in configs:
        parted = {former.partition(".")[::2]: f"--{present}" for former, present in MOVED_OPTIONS.items()}
        moved = {name: present for (table, name), present in parted.items() if table == slot}
        return unknown_option(owner_of(spec, slot), option, configs[slot], moved)
    if dot and slot in DEFAULTS:
        return OptionError(f"learner '{shown_name(spec, 'learner')}' uses no {slot}; leave out {typed}")
    last = {name.rpartition(".")[2]: name for name in spellings.options}
    last |= {info.name: f"{table}.{info.name}" for table in TABLES for info in describe(TABLES[table])}
    if argument.name in last:
        return _mistake(argument, last[argument.name])
    known = [name.replace("_", "-") for name in (*DEFAULTS, *GENERAL)]
    for names in (known, list(spellings.options), list(last)):
        if hint := suggest(argument.name, names):
            close = hint.partition("'")[2].partition("'")[0]
            return _mistake(argument, last.get(close, close))
    return _no_word(typed)


def _mistake(argument: Argument, name: str) -> Mistake:
    instead = attrs.evolve(argument, typed=f"--{name}")
    return Mistake(argument.typed, f"Did you mean '--{name}'?", (instead,))


def _switch(argument: Argument, word: str) -> tuple[Argument, Mistake]:
    """A switch with a value, and without it."""
    table, dot, name = argument.name.rpartition(".")
    name = name.removeprefix("no-")
    on, off = f"--{table}{dot}{name}", f"--{table}{dot}no-{name}"
    chosen = on if word.lower() == "true" else off
    return Argument(chosen), Mistake(word, f"A switch takes no value: it is {on} or {off}.", ())


def _no_word(word: str) -> OptionError:
    return OptionError(f"{PROGRAM} does not know '{word}'. See {PROGRAM} --help")
