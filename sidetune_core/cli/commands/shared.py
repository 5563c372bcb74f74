"""What several verbs read and write."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff

from sidetune_core.errors import OptionError

Switch = Annotated[bool, FlagCreatePairsOff]
"""An option that is named to turn it on."""


def assignment(word: str) -> tuple[str, Any]:
    """``weights=none`` as a name and a value."""
    name, equals, value = word.partition("=")
    if not equals:
        raise OptionError(f"an option is written NAME=VALUE, such as weights=none; got '{word}'")
    return name, _plain(value)


def ordered(verb: Callable[..., int], words: Sequence[str]) -> list[str]:
    """The options of a verb itself first, then ``--`` and its ``words``, which are options of `sidetune-run`: so the parser wants it."""
    parameters = [one for one in inspect.signature(verb).parameters.values() if one.name != "words"]
    switches = {f"--{one.name.replace('_', '-')}" for one in parameters if one.annotation == "Switch"} | {
        "--help",
        "-h",
    }
    with_value = {f"--{one.name.replace('_', '-')}" for one in parameters} - switches
    own: list[str] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        name = word.partition("=")[0].replace("_", "-")
        if word == "--":
            rest += left
        elif name in switches or (name in with_value and "=" in word):
            own.append(word)
        elif name in with_value:
            own += [word, *itertools.islice(left, 1)]
        else:
            rest.append(word)
    return [*own, "--", *rest] if rest else own


def _plain(text: str) -> Any:
    """``2`` as a number and ``true`` as a truth value, anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def print_json(values: Any) -> None:
    """JSON for a program."""
    print(json.dumps(values, indent=2))
