"""The five kinds of component that plugins provide."""

from __future__ import annotations

import attrs

from sidetune_core.errors import PluginError, suggest


@attrs.frozen
class Kind:
    """One kind of plugin: its name, its entry-point group, and the interface that its plugins implement."""

    name: str
    group: str
    interface: str
    """The class to derive from, as ``module:Class``; imported before the first plugin is."""
    methods: tuple[str, ...]
    """The methods that a plugin of this kind has to define."""
    summary: str

    @property
    def plural(self) -> str:
        return self.group.removeprefix("sidetune.")

    @property
    def former_group(self) -> str:
        """The group of former names: ``sidetune.former_learners``. Each has the target of a present name."""
        return self.group.replace("sidetune.", "sidetune.former_", 1)


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
    "small network trained next to the base",
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


def kind(name: str) -> Kind:
    """The kind called `name`, in the singular or the plural (``learner``, ``learners``).

    Raises:
        PluginError: there is no such kind.
    """
    for known in KINDS:
        if name in (known.name, known.plural):
            return known
    names = [known.name for known in KINDS]
    raise PluginError(
        f"no kind of plugin is called '{name}'.{suggest(name, names)} Kinds: {', '.join(names)}"
    )
