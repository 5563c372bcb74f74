"""A component as the user chooses it: its name, and the options that are set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sidetune_core.config.defaults import FOR_OBJECTS
from sidetune_core.config.given import KEYS, given_object
from sidetune_core.errors import OptionError


@attrs.frozen
class Choice:
    """A component by name, with the options that are set; all others have their defaults."""

    name: str
    options: dict[str, Any] = attrs.field(factory=dict)
    file: str = attrs.field(default="", eq=False, repr=False, kw_only=True)
    """The file that it was read from, which can name no code; empty for the user's own words."""
    name_typed: bool = attrs.field(default=False, eq=False, repr=False, kw_only=True)
    """Whether the user has typed the name that the file gives too."""
    given: Any = attrs.field(default=None, eq=False, repr=False, kw_only=True)
    """The object that the component is made of, which no spec can hold; None for a component by name."""

    folder: str = attrs.field(default="", eq=False, repr=False, kw_only=True)
    """The folder of the spec file that it was read from, which its relative paths begin in; empty if none."""
    recorded: bool = attrs.field(default=False, eq=False, repr=False, kw_only=True)
    """Whether it was read from a run folder, with every option that its version had."""

    @property
    def may_be_local(self) -> bool:
        """Whether its name can be that of code in the current folder."""
        return not self.file or self.name_typed


def choice(value: Any, slot: str = "") -> Choice | None:
    """A `Choice` from a name or a table: ``"ewc"``, or ``{"name": "ewc", "coef": 10.0}``.

    Args:
        value: also an object, for slots that take one: a network as ``base``, a list of tasks as ``env``, or
            a table with it and with options: ``{"module": network, "encoding": "layer4"}``.
        slot: that it is for; empty if it cannot be an object.

    Raises:
        OptionError: it is none of these.
    """
    if value is None or isinstance(value, Choice):
        return value
    if isinstance(value, str):
        return Choice(value)
    if slot and not isinstance(value, Mapping):
        given = given_object(slot, value)
        return Choice(FOR_OBJECTS[slot], given=given)
    rest = dict(value)
    if (key := KEYS.get(slot)) in rest and "name" not in rest:
        given = given_object(slot, rest.pop(str(key)))
        return Choice(FOR_OBJECTS[slot], rest, given=given)
    if not isinstance(rest.get("name"), str):
        raise OptionError(
            f"a component needs a name, e.g. {{'name': 'ewc', 'coef': 10.0}}; got {dict(value)}"
        )
    name = rest.pop("name")
    nested = rest.pop("options", {})
    if not isinstance(nested, Mapping):
        raise OptionError(f"the options of '{name}' are a table of names and values, not {nested!r}")
    return Choice(name, {**nested, **rest})
