"""The components that a command line names, put into a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sidetune_core.config import registry
from sidetune_core.config.choice import Choice
from sidetune_core.config.data_paths import relative_to_file
from sidetune_core.config.defaults import AUTO, default_name
from sidetune_core.config.kinds import kind
from sidetune_core.config.option_tables import TABLES
from sidetune_core.config.options import respell
from sidetune_core.config.resolve import Loaded, usable
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import PluginError


def with_names(spec: RunSpec, names: Mapping[str, str], file: str = "") -> RunSpec:
    """A spec with other components, by slot, as a command line names them.

    A replaced component loses its options; components that a new learner does not use are left out.

    Args:
        spec: the spec.
        names: names of components by slot.
        file: the file that gives the names; empty for words that the user typed.

    Raises:
        PluginError: see `registry`.
    """
    changed: dict[str, Choice] = {}
    kept: dict[str, Choice] = {}
    for slot, name in names.items():
        chosen = spec.component(slot)
        if chosen is None or not is_chosen(slot, name, spec):
            changed[slot] = Choice(name, file=file)
        elif not file:
            kept[slot] = attrs.evolve(chosen, name_typed=True)
    combined = spec.with_components({**changed, **kept})
    if changed:  # another run, which has other bytes under any conditions
        combined = attrs.evolve(combined, conditions=None)
    if "env" in changed:
        combined = attrs.evolve(combined, data=None)
    if "learner" not in changed:
        return combined
    unused = [
        slot for slot in ("base", "side", "merger") if slot not in names and slot not in usable(combined)
    ]
    return combined.with_components(dict.fromkeys(unused))


def is_chosen(slot: str, name: str, spec: RunSpec) -> bool:
    """Whether a spec already has this component, by its short or its qualified name."""
    chosen = spec.component(slot)
    if chosen is None or chosen.name == name:
        return chosen is not None
    if AUTO in (name, chosen.name):
        return False
    if ":" in name or ":" in chosen.name:  # code is its only name
        return False
    requested = registry.find(kind(slot), name)
    try:
        return requested == registry.find(kind(slot), chosen.name, spec.recorded)
    except PluginError:  # the spec's is not installed, which does not matter if it is replaced
        return False


def respelled(spec: RunSpec, loaded: Mapping[str, Loaded]) -> RunSpec:
    """The spec with all options under their present names."""
    choices: dict[str, Choice | None] = {}
    for slot, (_, cls) in loaded.items():
        chosen = spec.component(slot)
        if chosen is not None:
            options = respell(cls.Config, chosen.options, owner_of(spec, slot), spec.recorded)
            if chosen.folder:
                options = relative_to_file(cls.Config, options, owner_of(spec, slot), chosen.folder)
            choices[slot] = attrs.evolve(chosen, options=options, folder="")
    return spec.with_components(choices)


def owner_of(spec: RunSpec, slot: str) -> str:
    """The owner of the options of a slot, for messages: ``learner 'ewc'``."""
    return f"--{slot}" if slot in TABLES else f"{slot} '{shown_name(spec, slot)}'"


def shown_name(spec: RunSpec, slot: str) -> str:
    """As it was typed; the short name of a default."""
    chosen = spec.component(slot)
    return chosen.name if chosen else default_name(slot)


def options_of(spec: RunSpec, slot: str) -> dict[str, Any]:
    """The options that a spec sets of the component in a slot."""
    chosen = spec.component(slot)
    return dict(chosen.options) if chosen else {}
