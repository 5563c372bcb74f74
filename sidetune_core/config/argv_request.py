"""The arguments of ``sidetune-run`` that are read first: names of components, files and folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from sidetune_core.config.arguments import Argument
from sidetune_core.config.argv_options import PROGRAM, TRUST_SPEC
from sidetune_core.config.defaults import DEFAULTS
from sidetune_core.config.spec import Trust
from sidetune_core.errors import OptionError


@attrs.frozen
class Request:
    """The arguments that are read first."""

    names: Mapping[str, str]
    """Names of components by slot."""
    spec: Path | None
    resume: Path | None
    extend: Path | None
    save_every: str | None
    workers: str | None
    quiet: bool
    allow_changed: tuple[str, ...]
    trust_local_code: Trust
    help: bool


def first_stage(arguments: Sequence[Argument]) -> Request:
    """Read the names of components, and what else decides how the other arguments are read."""
    values: dict[str, str] = {}
    for argument in arguments:
        if argument.name in (*DEFAULTS, "spec", "resume", "extend", "save-every", "workers"):
            if not argument.values:
                raise OptionError(f"{argument.typed} needs a value. See {PROGRAM} --help")
            values[argument.name] = argument.values[0]
    typed = {argument.name for argument in arguments}
    return Request(
        names={slot: values[slot] for slot in DEFAULTS if slot in values},
        spec=Path(values["spec"]) if "spec" in values else None,
        resume=Path(values["resume"]) if "resume" in values else None,
        extend=Path(values["extend"]) if "extend" in values else None,
        save_every=values.get("save-every"),
        workers=values.get("workers"),
        quiet="quiet" in typed,
        allow_changed=_allowed(arguments),
        trust_local_code="trust-local-code" in typed or ("spec" if TRUST_SPEC in typed else False),
        help=bool({"help", "-h"} & typed),
    )


def _allowed(arguments: Sequence[Argument]) -> tuple[str, ...]:
    """The values of ``--allow-changed``, separated by spaces or commas,
    ``--allow-changed-plugins`` and
    ``--allow-changed-data``."""
    names: list[str] = []
    for argument in arguments:
        if argument.name == "allow-changed":
            names += [name for value in argument.values for name in value.split(",")]
            if not names:
                raise OptionError(f"{argument.typed} needs a value: spec, data, or plugins")
        elif argument.name in ("allow-changed-plugins", "allow-changed-data"):
            names.append(argument.name.rpartition("-")[2])
    return tuple(names)
