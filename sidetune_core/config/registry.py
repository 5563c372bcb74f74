"""The registry: from the name of a plugin to its class.

Three steps, three functions: `scan` reads metadata and imports nothing, `find` turns a name into one
`Plugin`, `load` imports its class and checks it. Each failure is a `PluginError` that names the distribution
and the remedy. What one package declares wrongly is `Unusable`, and affects no other package.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from typing import Any, Final

import attrs
from stevedore.extension import ExtensionManager

from sidetune_core.config import package_metadata
from sidetune_core.config.kinds import KINDS, Kind, kind
from sidetune_core.config.process_state import interrupts_noted, process_kept_alive, process_state_kept
from sidetune_core.errors import PluginError, shorten, suggest

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


def ships(distribution: str, slot: str, name: str) -> bool:
    """Whether a distribution provides the component `name` for a slot."""
    return any(
        plugin.name == name and normal_name(plugin.distribution) == normal_name(distribution)
        for plugin in installed(kind(slot))
    )


def shipped(distribution: str) -> tuple[Plugin, ...]:
    """All plugins of one distribution, from metadata only.

    Raises:
        PluginError: it is not installed, or has none.
    """
    available = [plugin for plugins in scan().plugins.values() for plugin in plugins]
    plugins = _of_distribution(distribution, available)
    if not plugins:
        known = sorted({plugin.distribution for plugin in available})
        raise PluginError(
            f"no installed package named '{distribution}' provides sidetune plugins."
            f"{suggest(distribution, known)} Installed: {', '.join(known)}"
        )
    return plugins


def _of_distribution(distribution: str, plugins: Iterable[Plugin]) -> tuple[Plugin, ...]:
    name = normal_name(distribution)
    return tuple(plugin for plugin in plugins if normal_name(plugin.distribution) == name)


def _installed_one(name: str, listed: metadata.Distribution) -> metadata.Distribution:
    """The metadata of a distribution that an installer wrote.

    A checkout may also hold an egg-info folder of an earlier build, which no later install updates.
    """
    candidates = list(metadata.distributions(name=name)) or [listed]  # the folder may have another name
    return next((one for one in candidates if one.read_text("WHEEL") is not None), candidates[0])


def find(kind: Kind, choice: str, recorded: bool = False) -> Plugin:
    """The plugin named `choice`; nothing is imported.

    Args:
        kind: its kind.
        choice: ``ewc``, ``acme-sidetune/ewc`` where two packages provide one, or ``my_module:MyLearner`` in
            the current folder. A former name finds the present component, with a `FormerSpelling` warning.
        recorded: the name comes from a run folder, so a former one is accepted without a warning.

    Raises:
        PluginError: there is none, or more than one.
    """
    if ":" in choice:
        if not re.fullmatch(r"[\w.]+:[\w.]+", choice):
            raise PluginError(
                f"'{choice}' is not a {kind.name}; write module:Class, "
                f"such as my_module:My{kind.name.title()}"
            )
        return Plugin(kind, choice, LOCAL, "", choice)
    inventory = scan((kind,))
    available = inventory.plugins[kind]
    distribution, _, name = choice.rpartition("/")
    matches = _matching(distribution, [plugin for plugin in available if plugin.name == name])
    if not matches:
        matches = _matching(
            distribution, [plugin for former, plugin in inventory.former[kind] if former == name]
        )
        if len(matches) == 1 and not recorded:
            _warn_former_name(kind, name, matches[0].name)
    if not matches:
        raise _not_found(kind, choice, inventory)
    if len(matches) > 1:
        origins = " and ".join(plugin.origin for plugin in matches)
        choices = " or ".join(f"{plugin.distribution}/{plugin.name}" for plugin in matches)
        raise PluginError(f"{kind.name} '{name}' is in {origins}; write {choices}")
    return matches[0]


def _matching(distribution: str, plugins: Sequence[Plugin]) -> Sequence[Plugin]:
    """Those of a distribution; all if its name is empty."""
    return _of_distribution(distribution, plugins) if distribution else plugins


def _warn_former_name(kind: Kind, former: str, present: str) -> None:
    from sidetune_core.config.options import FormerSpelling

    message = f"{kind.name} '{former}' is now '{present}'; its package keeps the former name for a while"
    warnings.warn(message, FormerSpelling, stacklevel=3)


def _not_found(kind: Kind, choice: str, inventory: Inventory) -> PluginError:
    """The error for a name that no package provides, or none as it should."""
    available = inventory.plugins[kind]
    distribution, _, name = choice.rpartition("/")
    for problem in inventory.of_kind(kind):
        owner = normal_name(problem.origin.partition(" ")[0])
        if problem.name == choice or (problem.name == name and owner == normal_name(distribution)):
            return PluginError(str(problem))
    damaged = f" Unreadable: {shorten(inventory.damaged)}." if inventory.damaged else ""
    if not available:
        return PluginError(
            f"no {kind.name} named '{choice}': no package provides any. "
            f"Is sidetune installed? pip install -e .{damaged}"
        )
    where = ""
    if distribution:
        within = _of_distribution(distribution, available)
        if not within:
            known = sorted({plugin.distribution for plugin in available})
            return PluginError(
                f"no {kind.name} named '{name}' in '{distribution}'.{suggest(distribution, known)} "
                f"Packages with a {kind.name}: {', '.join(known)}.{damaged}".removesuffix(".")
            )
        available, where = within, f" in {within[0].origin}"
    names = sorted({plugin.name for plugin in available})
    former = {former: plugin.name for former, plugin in inventory.former[kind] if plugin in available}
    return PluginError(
        f"no {kind.name} named '{name}'{where}.{suggest(name, names, former)} "
        f"Installed: {', '.join(names)}.{damaged}".removesuffix(".")
    )


def load(plugin: Plugin) -> type[Any]:
    """Import a plugin's class and check that it implements its kind.

    What the import changes of the process is restored: see `process_state`.

    Raises:
        PluginError: a library is missing, the import fails, or the class does not implement its kind.
    """
    with (
        _current_folder() if plugin.distribution == LOCAL else nullcontext(),
        package_metadata.damaged_metadata_skipped(),
    ):
        interface = pkgutil.resolve_name(plugin.kind.interface)  # imports torch, whose settings are kept
        loaded: type[Any] = _import(plugin)
        _check(plugin, loaded, interface)
    return loaded


def _import(plugin: Plugin) -> Any:
    """What the target of a plugin names."""
    with process_state_kept(), process_kept_alive(), interrupts_noted() as interrupts:
        try:
            return _Loader(plugin).extensions[0].plugin
        except PluginError:
            raise
        except BaseException as error:  # SystemExit too: none of them may end a command of sidetune
            if isinstance(error, KeyboardInterrupt) and interrupts:
                raise
            raise _load_error(plugin, error) from error


class _Loader(ExtensionManager[Any]):
    """Loads one plugin, past stevedore's cache on disk (stale after a reinstall) and its rule that the last
    of two names wins."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        super().__init__(plugin.kind.group, on_load_failure_callback=self._fail)

    def list_entry_points(self) -> list[metadata.EntryPoint]:
        return [self.plugin.entry]

    def _fail(self, _: ExtensionManager[Any], entry: metadata.EntryPoint, error: BaseException) -> None:
        raise _load_error(self.plugin, error) from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """Put the current folder first on ``sys.path``."""
    folder = os.getcwd()
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the module may have removed it
            sys.path.remove(folder)


def _load_error(plugin: Plugin, error: BaseException) -> PluginError:
    from sidetune_core.config.install_hints import load_error

    return load_error(plugin, error)


def _check(plugin: Plugin, loaded: object, interface: type[Any]) -> None:
    """Raise `PluginError` unless `loaded` is a class that implements the plugin's kind."""
    kind = plugin.kind
    if not isinstance(loaded, type):
        raise PluginError(f"{plugin.title}: {plugin.target} is not a class; name a class in the entry point")
    here = f"{plugin.title}: {loaded.__name__}"
    if not issubclass(loaded, interface):
        word = interface.__name__
        raise PluginError(f"{here} is not a {word}; derive it from sidetune_core.api.{word}")
    methods = dict.fromkeys((*kind.methods, *sorted(getattr(loaded, "__abstractmethods__", ()))))
    missing = [f"{method}()" for method in methods if not _defines(loaded, method)]
    if missing:
        raise PluginError(f"{here} does not define {', '.join(missing)}")
    config = getattr(loaded, "Config", None)
    if config is None:
        raise PluginError(
            f"{here} has no Config; give it a class Config, decorated with @attrs.frozen, with its options"
        )
    if not (isinstance(config, type) and attrs.has(config) and attrs.inspect(config).is_frozen):
        raise PluginError(f"{here}.Config is not a frozen attrs class; decorate it with @attrs.frozen")
    bare = [field.name for field in attrs.fields(config) if field.init and field.default is attrs.NOTHING]
    if bare:
        raise PluginError(f"{here}.Config has no default for {', '.join(bare)}; every option needs one")
    from sidetune_core.config.options import SUPPORTED_TYPES, unsupported_options

    try:
        unsupported = unsupported_options(config)
    except Exception as error:  # a name in a type hint that the module does not have
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"{here}.Config: the types of its options cannot be read: {reason}") from error
    if unsupported:
        raise PluginError(
            f"{here}.Config has options of unsupported types: {', '.join(unsupported)}. "
            f"Supported: {SUPPORTED_TYPES}"
        )


def _defines(cls: type[Any], method: str) -> bool:
    """Whether a method is implemented: neither abstract nor the placeholder that every ``nn.Module``
    inherits."""
    value = getattr(cls, method, None)
    abstract = getattr(value, "__isabstractmethod__", False)
    return callable(value) and not abstract and getattr(value, "__name__", "") != "_forward_unimplemented"


def normal_name(distribution: str) -> str:
    """A distribution's name, normalised as by PEP 503."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
