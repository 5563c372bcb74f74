"""The inventory: what the metadata of all installed packages declares, with nothing imported.

What one package declares wrongly is `Unusable`, and affects no other package.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Final

import attrs

from sidetune_core.config import package_metadata
from sidetune_core.config.kinds import KINDS, Kind

LOCAL: Final = "local"
"""The distribution of code in the current folder."""

NAME: Final = r"\w[\w.+-]*"
"""The names that can be chosen: a slash separates distribution and name, a colon module and class, a comma
the names of a sweep, and a dash begins an option."""

TARGET: Final = r"[\w.]+\s*(:\s*[\w.]+\s*)?(\[.*\]\s*)?"
"""The values of entry points, as `importlib.metadata` reads them."""


@attrs.frozen
class Plugin:
    """A component as its package declares it; not imported yet."""

    kind: Kind
    name: str
    distribution: str
    version: str
    target: str
    """Where the class lives, as ``module:Class``."""

    @property
    def title(self) -> str:
        """Who this is in a message: ``learner 'ewc' (sidetune 0.1)``."""
        return f"{self.kind.name} '{self.name}' ({self.origin})"

    @property
    def origin(self) -> str:
        """The distribution and its version: ``sidetune 0.1``."""
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def entry(self) -> metadata.EntryPoint:
        """What the import system needs to load it."""
        return metadata.EntryPoint(self.name, self.target, self.kind.group)


@attrs.frozen
class Unusable:
    """Metadata of a package that cannot be used, and why."""

    origin: str
    """The distribution and its version, or the folder of its metadata where it has no name."""
    reason: str
    kind: Kind | None = None
    """The kind of a component that is declared wrongly; None if all of the package is unreadable."""
    name: str = ""

    def __str__(self) -> str:
        component = f"{self.kind.name} '{self.name}' " if self.kind is not None else ""
        return f"{component}({self.origin}): {self.reason}" if component else f"{self.origin}: {self.reason}"


@attrs.frozen
class Inventory:
    """What the metadata of all installed packages declares."""

    plugins: Mapping[Kind, tuple[Plugin, ...]]
    """By kind, sorted by name and distribution."""
    unusable: tuple[Unusable, ...]
    former: Mapping[Kind, tuple[tuple[str, Plugin], ...]]
    """Former names with the present component of the same distribution."""

    def of_kind(self, kind: Kind) -> tuple[Unusable, ...]:
        """The components of a kind that are declared wrongly."""
        return tuple(problem for problem in self.unusable if problem.kind == kind)

    @property
    def damaged(self) -> tuple[Unusable, ...]:
        """The packages whose metadata cannot be read."""
        return tuple(problem for problem in self.unusable if problem.kind is None)


def installed(kind: Kind) -> tuple[Plugin, ...]:
    """All plugins of a kind, sorted by name and distribution, from metadata only."""
    return scan((kind,)).plugins[kind]


def scan(kinds: Sequence[Kind] = KINDS) -> Inventory:
    """The plugins of some kinds, from metadata only. Each distribution counts once."""
    importlib.invalidate_caches()  # finds packages that this process has just installed
    collector = _Collector(kinds)
    for distribution in metadata.distributions():
        try:
            collector.add(distribution)
        except ValueError as error:
            collector.refuse(Unusable(_origin(distribution), str(error)))
    return collector.inventory()


class _Collector:
    """Makes an inventory, one distribution after another."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = kinds
        self._groups = [group for kind in kinds for group in (kind.group, kind.former_group)]
        self._plugins: dict[Kind, dict[tuple[str, str], Plugin]] = {kind: {} for kind in kinds}
        self._former: dict[Kind, dict[tuple[str, str], Plugin]] = {kind: {} for kind in kinds}
        self._unusable: dict[Unusable, None] = {}

    def add(self, listed: metadata.Distribution) -> None:
        """Add what a distribution declares.

        Raises:
            ValueError: its metadata is damaged.
        """
        # reading a field parses the whole metadata: only for packages with plugins, and once
        if not any(package_metadata.entry_points(listed, self._groups)):
            return
        if not (name := package_metadata.field(listed, "Name")):  # pip can leave a folder behind
            raise ValueError("it has plugins, and METADATA without a name")
        distribution = _installed_one(name, listed)
        title, version = (package_metadata.field(distribution, field) for field in ("Name", "Version"))
        groups = iter(package_metadata.entry_points(distribution, self._groups))
        for known, present, former in zip(self._kinds, groups, groups, strict=True):
            present_plugins, former_plugins = (
                [Plugin(known, entry.name, title, version, entry.value) for entry in entries]
                for entries in (present, former)
            )
            self._add_components(present_plugins)
            self._add_former_names(former_plugins, present_plugins)

    def refuse(self, problem: Unusable) -> None:
        """Add what cannot be used."""
        self._unusable[problem] = None

    def inventory(self) -> Inventory:
        """All that was added."""
        plugins = {kind: tuple(found[key] for key in sorted(found)) for kind, found in self._plugins.items()}
        former = {
            kind: tuple(
                (name, plugin) for (name, _), plugin in sorted(found.items(), key=lambda item: item[0])
            )
            for kind, found in self._former.items()
        }
        return Inventory(plugins, tuple(self._unusable), former)

    def _add_components(self, declared: Sequence[Plugin]) -> None:
        for plugin in declared:
            if reason := _why_unusable(plugin, declared):
                self.refuse(Unusable(plugin.origin, reason, plugin.kind, plugin.name))
            else:
                self._plugins[plugin.kind][plugin.name, normal_name(plugin.distribution)] = plugin

    def _add_former_names(self, declared: Sequence[Plugin], present: Sequence[Plugin]) -> None:
        """Former names have the targets of present components of their distribution."""
        for plugin in declared:
            renamed = next((other for other in present if other.target == plugin.target), None)
            if renamed is None:
                reason = (
                    f"its target {plugin.target}, of a former name, is that of no present {plugin.kind.name}"
                )
                self.refuse(Unusable(plugin.origin, reason, plugin.kind, plugin.name))
            else:
                self._former[plugin.kind][plugin.name, normal_name(plugin.distribution)] = renamed


def _origin(distribution: metadata.Distribution) -> str:
    """The name and version of a distribution, with the folder of its metadata."""
    name, version = (package_metadata.field(distribution, field) for field in ("Name", "Version"))
    folder = package_metadata.location(distribution)
    return f"{name} {version} ({folder})" if name else folder


def _why_unusable(plugin: Plugin, declared: Sequence[Plugin]) -> str:
    """Why a component that a distribution declares in a group cannot be used; empty if it can."""
    if not re.fullmatch(NAME, plugin.name):
        return (
            "its name cannot be chosen; a name has letters, digits, '-', '_', '.' and '+', "
            "and begins with a letter or digit"
        )
    targets = [other.target for other in declared if other.name == plugin.name]
    if len(targets) > 1:
        return f"{package_metadata.ENTRY_POINTS} has {len(targets)} lines for it: {', '.join(targets)}"
    if not re.fullmatch(TARGET, plugin.target):
        return f"its target '{plugin.target}' is not module:Class"
    return ""


def installed_version(distribution: str) -> str | None:
    """The version of a distribution; None if it is not installed."""
    found = next(iter(metadata.distributions(name=distribution)), None)
    return package_metadata.field(found, "Version") if found is not None else None


def _installed_one(name: str, listed: metadata.Distribution) -> metadata.Distribution:
    """The metadata of a distribution that an installer wrote.

    A checkout may also hold an egg-info folder of an earlier build, which no later install updates.
    """
    candidates = list(metadata.distributions(name=name)) or [listed]  # the folder may have another name
    return next((one for one in candidates if one.read_text("WHEEL") is not None), candidates[0])


def normal_name(distribution: str) -> str:
    """A distribution's name, normalised as by PEP 503."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
