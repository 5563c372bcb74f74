"""The component of each slot that neither the user, nor a spec, nor the env chooses."""

from __future__ import annotations

from collections.abc import Mapping

DEFAULTS: Mapping[str, str] = {
    "base": "sidetune/resnet44",
    "side": "sidetune/fcn4",
    "merger": "sidetune/alpha",
    "learner": "sidetune/sidetune",
    "env": "sidetune/digits",
}
"""By slot. The distribution is part of each name, so that a package with a component of the same name changes
nothing."""


FOR_OBJECTS: Mapping[str, str] = {"base": "sidetune/module", "env": "sidetune/datasets"}
"""The components that wrap objects which are given in Python in place of a name, by slot."""


def default_name(slot: str) -> str:
    """The short name of a default, for display: ``alpha``."""
    return DEFAULTS[slot].rpartition("/")[2]
