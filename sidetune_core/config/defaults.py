"""The component of each slot that neither the user, nor a spec, nor the env chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DEFAULTS: Mapping[str, str] = {
    "base": "sidetune/resnet44",
    "side": "sidetune/fcn4",
    "merger": "sidetune/alpha",
    "learner": "sidetune/sidetune",
    "env": "sidetune/digits",
}
"""By slot. The distribution is part of each name, so that a package with a component of the same name changes
nothing."""

AUTO = "auto"
"""The name that leaves the side to `assembly.choose`, as if none was given."""

SIDES: Sequence[str] = (
    DEFAULTS["side"],
    "sidetune/ladder",
    "sidetune/ladder-text",
    "sidetune/conv",
    "sidetune/mlp",
    "sidetune/copy",
)
"""The sides that are tried in turn where none is chosen: the first that fits the base and has fewer
parameters is used, otherwise the smallest that fits; the default is used wherever it fits."""


FOR_OBJECTS: Mapping[str, str] = {"base": "sidetune/module", "env": "sidetune/datasets"}
"""The components that wrap objects which are given in Python in place of a name, by slot."""


def default_name(slot: str) -> str:
    """The short name of a default, for display: ``alpha``."""
    return DEFAULTS[slot].rpartition("/")[2]
