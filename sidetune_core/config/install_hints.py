"""What to install when the import of a plugin fails."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from sidetune_core.config.inventory import LOCAL, Plugin, normal_name, scan
from sidetune_core.config.package_metadata import packages_distributions
from sidetune_core.errors import PluginError, SidetuneError, suggest

FOR_DEVELOPERS: Final = frozenset({"all", "ci", "dev", "doc", "docs", "test", "testing", "tests"})
"""Extras that bring more than a component needs."""


def load_error(plugin: Plugin, error: BaseException) -> PluginError:
    """The error of a plugin whose import has raised `error`."""
    module, attribute = (component.strip() for component in plugin.target.partition(":")[::2])
    if isinstance(error, SidetuneError):  # the module knows better what it needs
        return PluginError(f"{plugin.title} {error}")
    missing = (isinstance(error, ModuleNotFoundError) and error.name) or ""
    if plugin.distribution == LOCAL and missing == module.partition(".")[0]:
        for problem in scan((plugin.kind,)).unusable:
            if problem.name == plugin.name:  # a package lists a component of this name
                return PluginError(str(problem))
    if missing and missing.partition(".")[0] not in {module.partition(".")[0], "sidetune_core"}:
        if plugin.distribution == LOCAL:
            return PluginError(
                f"{plugin.title} imports '{missing}'{_place(error, module)}, which is not installed; install "
                "its package, or correct the import"
            )
        return PluginError(f"{plugin.title} needs '{missing}': {_remedy(plugin, missing)}")
    if isinstance(error, AttributeError) and module in sys.modules:  # a failed import leaves no module behind
        hint = suggest(attribute, vars(sys.modules[module]))
        return PluginError(f"{plugin.title}: module '{module}' has no attribute '{attribute}'.{hint}")
    reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
    place = _place(error, module) if plugin.distribution == LOCAL else ""
    return PluginError(f"{plugin.title}: importing '{module}' fails{place} with {reason}")


def _place(error: BaseException, module: str) -> str:
    """`` (evil.py, line 3)``, the latest line of a user's own module in a traceback; empty if it has none."""
    path = module.replace(".", "/")
    places = [
        (Path(frame.filename), frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).with_suffix("").as_posix().endswith((path, f"{path}/__init__"))
    ]
    return f" ({places[-1][0].name}, line {places[-1][1]})" if places else ""


def _remedy(plugin: Plugin, module: str) -> str:
    """The command that installs `module`: an extra or a requirement of the plugin's distribution, or the bare
    name."""
    top = module.partition(".")[0]
    providers = packages_distributions().get(top, [])  # empty where all of the library is missing
    names = {normal_name(name) for name in (top, *providers)}
    for distribution in metadata.distributions(name=plugin.distribution):
        requirements = _requirements(distribution, names)
        matches = [re.search(r"""extra\s*==\s*["']([^"']+)""", line) for line in requirements]
        extras = [match[1] for match in matches if match]
        if (
            not requirements
        ):  # cv2 is in opencv-python: no metadata here says so, but an extra may be named for it
            extras = distribution.metadata.get_all("Provides-Extra", [])
            extras = [extra for extra in extras if normal_name(extra) in {*names, normal_name(plugin.name)}]
        if extras:
            return f"pip install '{plugin.distribution}[{_best_extra(extras, names, plugin)}]'"
        if requirements:
            return f"pip install '{requirements[0].partition(';')[0].strip()}'"
    return f"pip install --upgrade {providers[0]}" if providers else f"pip install {top}"


def _best_extra(extras: Sequence[str], names: set[str], plugin: Plugin) -> str:
    """The extra that is for a plugin, of several that bring the library: the one named for the library or
    the plugin, rather than one for another component or for the package's own tests."""
    owner = normal_name(plugin.distribution)
    components = [other for plugins in scan().plugins.values() for other in plugins]
    others = {normal_name(other.name) for other in components if normal_name(other.distribution) == owner}

    def rank(extra: str) -> int:
        name = normal_name(extra)
        if name in names or name == normal_name(plugin.name):
            return 0
        return 2 if name in others or name in FOR_DEVELOPERS else 1

    return min(extras, key=rank)


def _requirements(distribution: metadata.Distribution, names: set[str]) -> list[str]:
    """The Requires-Dist lines for one of `names`, otherwise those with such a prefix (habitat-lab for
    habitat)."""
    lines = {line: normal_name(re.split(r"[^\w.-]", line)[0]) for line in distribution.requires or []}
    exact = [line for line, name in lines.items() if name in names]
    return exact or [
        line for line, name in lines.items() if name.startswith(tuple(f"{short}-" for short in names))
    ]
