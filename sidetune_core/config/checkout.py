"""Plugin packages in the folder ``examples`` of a checkout of sidetune, installed or not.

What they provide is read from their ``pyproject.toml``, so that a component of a package that is not
installed is known by name. They are on no index: where sidetune was not installed from a checkout, there are
none.
"""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.config.inventory import Inventory, normal_name
from sidetune_core.config.kinds import KINDS, Kind

FOLDER = Path(__file__).resolve().parents[2] / "examples"


@attrs.frozen
class LocalPackage:
    """A plugin package in a folder."""

    name: str
    folder: Path
    components: Mapping[Kind, tuple[str, ...]]
    """Their names by kind."""

    @property
    def command(self) -> str:
        """The command that installs it, with a path from the current folder if it is below that."""
        path = os.path.relpath(self.folder)
        path = str(self.folder) if path.startswith(os.pardir) else os.path.join(os.curdir, path)
        return f"pip install {shlex.quote(path)}"


def not_installed(inventory: Inventory, kinds: Sequence[Kind], folder: Path = FOLDER) -> list[LocalPackage]:
    """The packages with components of `kinds` that are not in the inventory, with these components only."""
    installed = {
        (kind, plugin.name, normal_name(plugin.distribution))
        for kind in kinds
        for plugin in inventory.plugins[kind]
    }
    packages = []
    for package in local_packages(folder):
        missing = {
            kind: tuple(name for name in names if (kind, name, normal_name(package.name)) not in installed)
            for kind, names in package.components.items()
            if kind in kinds
        }
        if any(missing.values()):
            packages.append(attrs.evolve(package, components=missing))
    return packages


def local_packages(folder: Path = FOLDER) -> Iterator[LocalPackage]:
    """The plugin packages of a checkout, installed or not."""
    for path in sorted(folder.glob("*/pyproject.toml")):
        try:
            project: Any = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
            groups = project.get("entry-points", {})
            names = {kind: tuple(sorted(groups[kind.group])) for kind in KINDS if kind.group in groups}
            if names:
                yield LocalPackage(project["name"], path.parent, names)
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            continue  # pip says what is wrong with it; a list of others does not depend on it
