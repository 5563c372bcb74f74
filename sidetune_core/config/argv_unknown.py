"""Answers to words of a command line that do not exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidetune_core.config.argv_names import owner_of, shown_name
from sidetune_core.config.argv_options import GENERAL, PROGRAM
from sidetune_core.config.defaults import DEFAULTS
from sidetune_core.config.options import describe, unknown_option
from sidetune_core.config.spec import MOVED_OPTIONS, TABLES, RunSpec
from sidetune_core.errors import OptionError, suggest


def unknown_argument(word: str, configs: Mapping[str, type[Any]], spec: RunSpec) -> OptionError:
    """The error for an argument that does not exist."""
    typed = word.partition("=")[0]
    slot, dot, option = typed.removeprefix("--").partition(".")
    tables = {f"{table}.{info.name}": None for table in TABLES for info in describe(TABLES[table])}
    if dot and slot in configs:
        parted = {former.partition(".")[::2]: f"--{present}" for former, present in MOVED_OPTIONS.items()}
        moved = {name: present for (table, name), present in parted.items() if table == slot}
        return unknown_option(owner_of(spec, slot), option, configs[slot], moved)
    if dot and slot in DEFAULTS:
        return OptionError(f"learner '{shown_name(spec, 'learner')}' uses no {slot}; leave out {typed}")
    if word.lower() in ("true", "false"):
        return OptionError(
            f"{PROGRAM} does not know '{word}': a switch takes no value, "
            "it is --learner.norm or --learner.no-norm"
        )
    known = [f"--{name}".replace("_", "-") for name in (*DEFAULTS, *GENERAL)]
    last = {f"--{name.partition('.')[2]}": f"--{name}" for name in tables} | {"--device": "--device.name"}
    hint = f" Did you mean '{last[typed]}'?" if typed in last else suggest(typed, known)
    return OptionError(f"{PROGRAM} does not know '{word}'.{hint} See {PROGRAM} --help")
