"""What several verbs read and write."""

from __future__ import annotations

import json
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


def _plain(text: str) -> Any:
    """``2`` as a number and ``true`` as a truth value, anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def print_json(values: Any) -> None:
    """JSON for a program."""
    print(json.dumps(values, indent=2))
