"""The registry: from the name of a plugin to its class.

Three steps, three functions: `inventory.scan` reads metadata and imports nothing, `find` turns a name into
one `Plugin`, `load` imports its class and checks it. Each failure is a `PluginError` that names the
distribution and the remedy.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from typing import Any

import attrs
from stevedore.extension import ExtensionManager

from sidetune_core.config import package_metadata
from sidetune_core.config.inventory import LOCAL as LOCAL
from sidetune_core.config.inventory import Inventory, normal_name
from sidetune_core.config.inventory import Plugin as Plugin
from sidetune_core.config.inventory import installed as installed
from sidetune_core.config.inventory import scan as scan
from sidetune_core.config.kinds import Kind, kind
from sidetune_core.config.process_state import interrupts_noted, process_kept_alive, process_state_kept
from sidetune_core.errors import PluginError, UntrustedCode, shorten, suggest


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


def find(
    kind: Kind,
    choice: str,
    recorded: bool = False,
    trust_local_code: bool = False,
    inventory: Inventory | None = None,
) -> Plugin:
    """The plugin named `choice`; nothing is imported.

    Args:
        kind: its kind.
        choice: ``ewc``, ``acme-sidetune/ewc`` where two packages provide one, or ``my_module:MyLearner`` in
            the current folder, where that is trusted. A former name finds the present component, with a
            `FormerSpelling` warning.
        recorded: the name comes from a run folder, so a former one is accepted without a warning.
        trust_local_code: ``module:Class`` can be chosen; false where a file says it, not the user.
        inventory: of this kind among others, where several names are looked up; None to make one.

    Raises:
        UntrustedCode: the name is ``module:Class``, without `trust_local_code`.
        PluginError: there is none, or more than one.
    """
    if ":" in choice:
        if not re.fullmatch(r"[\w.]+:[\w.]+", choice):
            raise PluginError(
                f"'{choice}' is not a {kind.name}; write module:Class, "
                f"such as my_module:My{kind.name.title()}"
            )
        if not trust_local_code:
            raise UntrustedCode(f"{kind.name} '{choice}' is code to import, and a file names it")
        return Plugin(kind, choice, LOCAL, "", choice)
    inventory = scan((kind,)) if inventory is None else inventory
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
    if hint := _in_checkout(kind, choice, inventory):
        return PluginError(hint)
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


def _in_checkout(kind: Kind, choice: str, inventory: Inventory) -> str:
    """Which package of the checkout has a component, and how to install it; empty if none has."""
    from sidetune_core.config.checkout import not_installed

    distribution, _, name = choice.rpartition("/")
    for package in not_installed(inventory, (kind,)):
        owner = normal_name(package.name)
        if name in package.components[kind] and distribution in ("", package.name, owner):
            return f"{kind.name} '{name}' is in {package.name}, a package of this checkout: {package.command}"
    return ""


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
