"""The registry: from a name that somebody types to the class that does the work.

Three steps, three functions: `installed` reads metadata and imports nothing, `find` turns a choice into one `Plugin`, `load`
imports that one and checks it. What goes wrong on the way is a `PluginError` that names the distribution and says what to do.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from typing import Any, Final

import attrs
from stevedore.extension import ExtensionManager

from sidetune_core.config.kinds import KINDS, Kind
from sidetune_core.errors import PluginError, suggest

LOCAL: Final = "local"
"""Stands for the distribution of code in the current folder."""


@attrs.frozen
class Plugin:
    """A part as its package declares it, not imported yet."""

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
    """All plugins of a kind by name, then distribution, from metadata only. A distribution that is seen twice counts once.

    Metadata that cannot be read is passed over: one broken package is not to stop those that have nothing to do with it.
    """
    importlib.invalidate_caches()  # a package installed a moment ago, by this process too, is to be seen
    found: dict[tuple[str, str], Plugin] = {}
    for seen in metadata.distributions():
        if not _entries(seen, kind) or not (
            name := _about(seen, "Name")
        ):  # pip can leave a folder without metadata behind
            continue
        distribution = _installed_one(name, seen)
        for entry in _entries(distribution, kind):
            plugin = Plugin(
                kind, entry.name, _about(distribution, "Name"), _about(distribution, "Version"), entry.value
            )
            found[plugin.name, _normal(plugin.distribution)] = plugin
    return tuple(found[key] for key in sorted(found))


def shipped(distribution: str) -> tuple[Plugin, ...]:
    """All plugins of one distribution, from metadata only.

    Raises:
        PluginError: it is not installed, or has none.
    """
    there = [plugin for kind in KINDS for plugin in installed(kind)]
    found = tuple(plugin for plugin in there if _normal(plugin.distribution) == _normal(distribution))
    if not found:
        known = sorted({plugin.distribution for plugin in there})
        raise PluginError(
            f"no package '{distribution}' with parts is here.{suggest(distribution, known)} Installed: {', '.join(known)}"
        )
    return found


def _entries(distribution: metadata.Distribution, kind: Kind) -> tuple[metadata.EntryPoint, ...]:
    """Its plugins of a kind; none where the list of its entry points is no such list."""
    try:
        return tuple(distribution.entry_points.select(group=kind.group))
    except (TypeError, ValueError):  # a line without '=', or not UTF-8
        return ()


def _about(distribution: metadata.Distribution, field: str) -> str:
    """A field of its metadata, empty where there is none."""
    try:
        about = distribution.metadata
        return str(about[field]) if field in about else ""
    except (TypeError, ValueError, metadata.PackageNotFoundError):  # no file, or not UTF-8
        return ""


def _installed_one(name: str, seen: metadata.Distribution) -> metadata.Distribution:
    """Of the metadata of a distribution on ``sys.path``, that which an installer wrote.

    In a checkout there may be an egg-info folder beside it that an earlier build left, and that no later install brings up to date.
    """
    there = list(metadata.distributions(name=name)) or [seen]  # a folder may be called otherwise
    return next((one for one in there if one.read_text("WHEEL") is not None), there[0])


def find(kind: Kind, choice: str) -> Plugin:
    """The plugin that is meant by `choice`; nothing is imported.

    Args:
        kind: what is looked for.
        choice: ``ewc``, ``acme-sidetune/ewc`` where two packages ship one, or ``my_module:MyLearner`` in the current folder.

    Raises:
        PluginError: there is none, or more than one.
    """
    if ":" in choice:
        if not re.fullmatch(r"[\w.]+:[\w.]+", choice):
            raise PluginError(
                f"'{choice}' names no {kind.name}; write module:Class, such as my_module:My{kind.name.title()}"
            )
        return Plugin(kind, choice, LOCAL, "", choice)
    there = installed(kind)
    if not there:
        raise PluginError(
            f"no {kind.name} named '{choice}': no package provides any. Is sidetune installed? pip install -e ."
        )
    distribution, _, name = choice.rpartition("/")
    if distribution:
        there = _within(distribution, name, there)
    found = [plugin for plugin in there if plugin.name == name]
    if not found:
        names = sorted({plugin.name for plugin in there})
        where = f" in {there[0].origin}" if distribution else ""
        raise PluginError(
            f"no {kind.name} named '{name}'{where}.{suggest(name, names)} Installed: {', '.join(names)}"
        )
    if len(found) > 1:
        origins = " and ".join(plugin.origin for plugin in found)
        choices = " or ".join(f"{plugin.distribution}/{name}" for plugin in found)
        raise PluginError(f"{kind.name} '{name}' is in {origins}; write {choices}")
    return found[0]


def load(plugin: Plugin) -> type[Any]:
    """Import a plugin's class and check that it is one of its kind.

    Raises:
        PluginError: a library is missing, the import fails, or the class is not what its kind asks for.
    """
    with _current_folder() if plugin.distribution == LOCAL else nullcontext():
        try:
            loaded = _Loader(plugin).extensions[0].plugin
        except (AssertionError, SystemExit) as error:  # stevedore shows these two to no callback
            raise _failure(plugin, error) from error
    _check(plugin, loaded)
    return loaded


class _Loader(ExtensionManager[Any]):
    """Loads one plugin, past stevedore's cache on disk (stale after a reinstall) and its rule that the last of two names wins."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        super().__init__(plugin.kind.group, on_load_failure_callback=self._fail)

    def list_entry_points(self) -> list[metadata.EntryPoint]:
        return [self.plugin.entry]

    def _fail(self, _: ExtensionManager[Any], entry: metadata.EntryPoint, error: BaseException) -> None:
        raise _failure(self.plugin, error) from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """Has the current folder first on ``sys.path`` for a while."""
    folder = os.getcwd()
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the module itself may have tidied up
            sys.path.remove(folder)


def _within(distribution: str, name: str, there: tuple[Plugin, ...]) -> tuple[Plugin, ...]:
    """Those of one distribution, which has to be there."""
    found = tuple(plugin for plugin in there if _normal(plugin.distribution) == _normal(distribution))
    if not found:
        kind, known = there[0].kind.name, sorted({plugin.distribution for plugin in there})
        near = suggest(distribution, known)
        raise PluginError(
            f"no {kind} named '{name}' in '{distribution}'.{near} Packages with a {kind}: {', '.join(known)}"
        )
    return found


def _failure(plugin: Plugin, error: BaseException) -> PluginError:
    """What to say when importing a plugin has raised `error`."""
    module, attribute = (component.strip() for component in plugin.target.partition(":")[::2])
    lost = (isinstance(error, ModuleNotFoundError) and error.name) or ""
    if lost and lost.partition(".")[0] not in {module.partition(".")[0], "sidetune_core"}:
        return PluginError(f"{plugin.title} needs '{lost}': {_remedy(plugin, lost)}")
    if (
        isinstance(error, AttributeError) and module in sys.modules
    ):  # a module that fails on its way in does not stay there
        near = suggest(attribute, vars(sys.modules[module]))
        return PluginError(
            f"{plugin.title}: '{plugin.target}' names what is not there: '{module}' has no '{attribute}'.{near}"
        )
    reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
    return PluginError(f"{plugin.title}: importing '{module}' fails with {reason}")


def _remedy(plugin: Plugin, module: str) -> str:
    """The command that brings `module`: by an extra of the plugin's distribution, by its requirement, or by the bare name."""
    top = module.partition(".")[0]
    providers = metadata.packages_distributions().get(
        top, []
    )  # empty unless only a part of the library is missing
    names = {_normal(name) for name in (top, *providers)}
    for distribution in metadata.distributions(name=plugin.distribution):
        found = _requirements(distribution, names)
        extras = [match[1] for line in found if (match := re.search(r"""extra\s*==\s*["']([^"']+)""", line))]
        if not found:  # cv2 comes from opencv-python, and no metadata here tells; an extra named for it, or for the plugin, does
            extras = distribution.metadata.get_all("Provides-Extra", [])
            extras = [extra for extra in extras if _normal(extra) in {*names, _normal(plugin.name)}]
        if extras:
            extra = min(extras, key=lambda extra: _normal(extra) not in names)  # 'habitat' rather than 'all'
            return f"pip install '{plugin.distribution}[{extra}]'"
        if found:
            return f"pip install '{found[0].partition(';')[0].strip()}'"
    return f"pip install --upgrade {providers[0]}" if providers else f"pip install {top}"


def _requirements(distribution: metadata.Distribution, names: set[str]) -> list[str]:
    """The Requires-Dist lines for one of `names`, or else for one that begins so, as habitat-lab does with habitat."""
    lines = {line: _normal(re.split(r"[^\w.-]", line)[0]) for line in distribution.requires or []}
    exact = [line for line, name in lines.items() if name in names]
    return exact or [
        line for line, name in lines.items() if name.startswith(tuple(f"{short}-" for short in names))
    ]


def _check(plugin: Plugin, loaded: object) -> None:
    """Raise `PluginError` unless `loaded` is a class as the plugin's kind wants it."""
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


def _defines(cls: type[Any], method: str) -> bool:
    """Whether a method is there and real: neither abstract nor the placeholder that every ``nn.Module`` inherits."""
    found = getattr(cls, method, None)
    abstract = getattr(found, "__isabstractmethod__", False)
    return callable(found) and not abstract and getattr(found, "__name__", "") != "_forward_unimplemented"


def _normal(distribution: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
