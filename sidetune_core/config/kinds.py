"""The five kinds of part that plugins provide."""

from __future__ import annotations

import attrs

from sidetune_core.errors import PluginError, suggest


@attrs.frozen
class Kind:
    """One kind of plugin: its word, its entry-point group, and the class that its plugins derive from."""

    name: str
    group: str
    interface: str
    """Where the class to derive from lives, as ``module:Class``; imported only once a plugin has been."""
    methods: tuple[str, ...]
    """What a plugin of this kind has to define itself."""
    summary: str

    @property
    def plural(self) -> str:
        return self.group.removeprefix("sidetune.")


BASE = Kind(
    "base",
    "sidetune.bases",
    "sidetune_core.interfaces.networks:Base",
    ("forward",),
    "pretrained network that encodes an input",
)
SIDE = Kind(
    "side",
    "sidetune.sides",
    "sidetune_core.interfaces.networks:Side",
    ("forward",),
    "small network beside the base",
)
MERGER = Kind(
    "merger",
    "sidetune.mergers",
    "sidetune_core.interfaces.networks:Merger",
    ("forward",),
    "fuses the encodings of base and side",
)
LEARNER = Kind(
    "learner",
    "sidetune.learners",
    "sidetune_core.interfaces.learner:Learner",
    ("start", "forward"),
    "adaptation method",
)
ENV = Kind("env", "sidetune.envs", "sidetune_core.interfaces.tasks:TaskStream", ("tasks",), "stream of tasks")

KINDS: tuple[Kind, ...] = (BASE, SIDE, MERGER, LEARNER, ENV)


def kind(word: str) -> Kind:
    """The kind called `word`, in the singular or the plural (``ewc`` is a learner, ``sidetune list learners``).

    Raises:
        PluginError: there is no such kind.
    """
    for one in KINDS:
        if word in (one.name, one.plural):
            return one
    names = [one.name for one in KINDS]
    raise PluginError(
        f"no kind of plugin is called '{word}'.{suggest(word, names)} Kinds: {', '.join(names)}"
    )
