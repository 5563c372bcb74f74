"""Parts of several commands: switches, assignments, JSON output."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff

from sidetune_core.errors import OptionError
from sidetune_core.io import strict_json
from sidetune_core.io.files import is_within

Switch = Annotated[bool, FlagCreatePairsOff]
"""A flag without a value and without a negation."""


def assignment(word: str) -> tuple[str, Any]:
    """``weights=none`` as a name and a value."""
    name, equals, value = word.partition("=")
    if not equals:
        raise OptionError(f"expected NAME=VALUE, such as weights=none; got '{word}'")
    return name, _plain(value)


def own_options_first(function: Callable[..., int], words: Sequence[str]) -> list[str]:
    """The options of a command itself, then ``--`` and its pass-through arguments, options of `sidetune-run`.

    Args:
        function: of the command; it takes the pass-through arguments as its parameter ``argv``.
        words: the command line, in any order.
    """
    options = {
        f"--{name.replace('_', '-')}": parameter.annotation == "Switch"
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "argv"
    }
    options |= {"--help": True, "-h": True}
    own: list[str] = []
    passed: list[str] = []
    for index, word in enumerate(words):
        if word == "--":
            passed += words[index + 1 :]
            break
        previous = words[index - 1].replace("_", "-") if index else ""
        name = word.partition("=")[0].replace("_", "-")
        is_value = options.get(previous) is False
        (own if name in options or is_value else passed).append(word)
    return [*own, "--", *passed] if passed else own


def _plain(text: str) -> Any:
    """``2`` as a number and ``true`` as a bool, anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def check_outside(option: str, path: Path, source: Path) -> None:
    """Check that a command writes nothing into a run or an adapter that it only reads.

    Args:
        option: such as ``--out``, for the message.
        path: what it gives.
        source: the folder of the run or adapter.

    Raises:
        OptionError: the path is in that folder, also through a link.
    """
    if is_within(path, source):
        raise OptionError(f"{option} {path} is in {source}, which is only read; choose a path outside of it")


def print_json(values: Any) -> None:
    """Print values as JSON; a number that is not finite is ``null``."""
    print(strict_json.dumps(values, indent=2))
