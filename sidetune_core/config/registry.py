"""The registry: from the name of a plugin to its class.

Three steps, three functions: `installed` reads metadata and imports nothing, `find` turns a name into one
`Plugin`, `load` imports its class and checks it. Each failure is a `PluginError` that names the distribution
and the remedy.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from typing import Any, Final

import attrs
from stevedore.extension import ExtensionManager

from sidetune_core.config.kinds import KINDS, Kind, kind
from sidetune_core.errors import PluginError, suggest

LOCAL: Final = "local"
"""The distribution of code in the current folder."""


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


def installed(kind: Kind) -> tuple[Plugin, ...]:
    """All plugins of a kind, sorted by name and distribution, from metadata only. Each distribution counts
    once.

    Unreadable metadata is skipped, so that a broken package does not affect the others.
    """
    return installed_by_kind((kind,))[kind]


def installed_by_kind(kinds: Sequence[Kind] = KINDS) -> dict[Kind, tuple[Plugin, ...]]:
    """`installed` for several kinds, with one scan of the metadata."""
    importlib.invalidate_caches()  # finds packages that this process has just installed
    plugins: dict[Kind, dict[tuple[str, str], Plugin]] = {known: {} for known in kinds}
    for listed in metadata.distributions():
        # reading a field parses the whole metadata: only for packages with plugins, and once
        if not any(_entries(listed, kinds)) or not (name := _field(listed, "Name")):
            continue  # pip can leave a folder without metadata behind
        distribution = _installed_one(name, listed)
        title, version = _field(distribution, "Name"), _field(distribution, "Version")
        for known, entries in zip(kinds, _entries(distribution, kinds), strict=True):
            for entry in entries:
                plugin = Plugin(known, entry.name, title, version, entry.value)
                plugins[known][entry.name, normal_name(title)] = plugin
    return {known: tuple(found[key] for key in sorted(found)) for known, found in plugins.items()}


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
    available = [plugin for plugins in installed_by_kind().values() for plugin in plugins]
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


def _entries(
    distribution: metadata.Distribution, kinds: Sequence[Kind]
) -> list[tuple[metadata.EntryPoint, ...]]:
    """Its entry points of each kind; none where the file is malformed."""
    try:
        entries = distribution.entry_points
        return [tuple(entries.select(group=kind.group)) for kind in kinds]
    except (TypeError, ValueError):  # a line without '=', or not UTF-8
        return [() for _ in kinds]


def _field(distribution: metadata.Distribution, field: str) -> str:
    """A field of its metadata, empty where there is none."""
    try:
        fields = distribution.metadata
        return str(fields[field]) if field in fields else ""
    except (TypeError, ValueError, metadata.PackageNotFoundError):  # no file, or not UTF-8
        return ""


def _installed_one(name: str, listed: metadata.Distribution) -> metadata.Distribution:
    """The metadata of a distribution that an installer wrote.

    A checkout may also hold an egg-info folder of an earlier build, which no later install updates.
    """
    candidates = list(metadata.distributions(name=name)) or [listed]  # the folder may have another name
    return next((one for one in candidates if one.read_text("WHEEL") is not None), candidates[0])


def find(kind: Kind, choice: str) -> Plugin:
    """The plugin named `choice`; nothing is imported.

    Args:
        kind: its kind.
        choice: ``ewc``, ``acme-sidetune/ewc`` where two packages provide one, or ``my_module:MyLearner`` in
            the current folder.

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
    available = installed(kind)
    if not available:
        raise PluginError(
            f"no {kind.name} named '{choice}': no package provides any. "
            "Is sidetune installed? pip install -e ."
        )
    distribution, _, name = choice.rpartition("/")
    if distribution:
        available = _within(distribution, name, available)
    matches = [plugin for plugin in available if plugin.name == name]
    if not matches:
        names = sorted({plugin.name for plugin in available})
        where = f" in {available[0].origin}" if distribution else ""
        raise PluginError(
            f"no {kind.name} named '{name}'{where}.{suggest(name, names)} Installed: {', '.join(names)}"
        )
    if len(matches) > 1:
        origins = " and ".join(plugin.origin for plugin in matches)
        choices = " or ".join(f"{plugin.distribution}/{name}" for plugin in matches)
        raise PluginError(f"{kind.name} '{name}' is in {origins}; write {choices}")
    return matches[0]


def load(plugin: Plugin) -> type[Any]:
    """Import a plugin's class and check that it implements its kind.

    Raises:
        PluginError: a library is missing, the import fails, or the class does not implement its kind.
    """
    with _current_folder() if plugin.distribution == LOCAL else nullcontext():
        try:
            loaded = _Loader(plugin).extensions[0].plugin
        except (AssertionError, SystemExit) as error:  # stevedore shows these two to no callback
            raise _load_error(plugin, error) from error
    _check(plugin, loaded)
    return loaded


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


def _within(distribution: str, name: str, available: Sequence[Plugin]) -> tuple[Plugin, ...]:
    plugins = _of_distribution(distribution, available)
    if not plugins:
        kind, known = available[0].kind.name, sorted({plugin.distribution for plugin in available})
        hint = suggest(distribution, known)
        raise PluginError(
            f"no {kind} named '{name}' in '{distribution}'.{hint} Packages with a {kind}: {', '.join(known)}"
        )
    return plugins


def _load_error(plugin: Plugin, error: BaseException) -> PluginError:
    from sidetune_core.config.install_hints import load_error

    return load_error(plugin, error)


def _check(plugin: Plugin, loaded: object) -> None:
    """Raise `PluginError` unless `loaded` is a class that implements the plugin's kind."""
    kind = plugin.kind
    if not isinstance(loaded, type):
        raise PluginError(f"{plugin.title}: {plugin.target} is not a class; name a class in the entry point")
    interface = pkgutil.resolve_name(kind.interface)
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

    if unsupported := unsupported_options(config):
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
