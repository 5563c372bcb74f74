"""A digest of the source of a plugin: which code a component of a run was.

What counts is the module of the class and the modules that it imports, directly or indirectly, from its own
top-level package (for a module in the current folder: from that folder), with the ``__init__.py`` of the
packages in between. Imports are read from the source, so that those in functions count too; nothing is
imported for it. What belongs to other packages does not count, nor do data files.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from sidetune_core.config.inventory import LOCAL, Plugin


def source_digest(plugin: Plugin) -> str:
    """SHA-256 over the names and contents of a plugin's modules, in hexadecimal; empty if there is no
    source."""
    module, modules = _modules(plugin)
    digest = hashlib.sha256()
    for name, content in sorted(modules.contents(module).items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest() if modules.found else ""


def module_source(plugin: Plugin) -> bytes:
    """The source of the module of a plugin; empty if it has none.

    Raises:
        OSError: it cannot be read.
    """
    module, modules = _modules(plugin)
    spec = modules.find(module)
    return _content(spec) if spec is not None else b""


def _modules(plugin: Plugin) -> tuple[str, _Modules]:
    """The module of a plugin, and those of its package."""
    module = plugin.target.partition(":")[0].strip()
    return module, _Modules(module, str(Path.cwd()) if plugin.distribution == LOCAL else "")


class _Modules:
    """The modules of one top-level package, or of the current folder, as specs; none is imported.

    Args:
        module: a module of the package.
        folder: a folder whose modules count as one package; empty for the package of `module`.
    """

    def __init__(self, module: str, folder: str) -> None:
        self._top, self._folder = module.partition(".")[0], folder
        self._specs: dict[str, ModuleSpec | None] = {}
        self.found = False

    def contents(self, module: str) -> dict[str, bytes]:
        """The contents of the files of a module and of those that it imports, by name."""
        contents: dict[str, bytes] = {}
        pending = [module]
        while pending:
            name = pending.pop()
            spec = self.find(name)
            if name in contents or spec is None:
                continue
            contents[name] = _content(spec)
            self.found = self.found or bool(contents[name])
            pending += [name.rpartition(".")[0]] if "." in name else []
            is_package = spec.submodule_search_locations is not None
            if spec.origin is not None and spec.origin.endswith(".py"):
                pending += _imports(contents[name], name if is_package else name.rpartition(".")[0])
        return contents

    def find(self, name: str) -> ModuleSpec | None:
        """The spec of a module; None if there is none."""
        if name not in self._specs:
            self._specs[name] = self._find(name)
        return self._specs[name]

    def _find(self, name: str) -> ModuleSpec | None:
        parent, _, _ = name.rpartition(".")
        if parent:
            package = self.find(parent)
            locations = package.submodule_search_locations if package is not None else None
            return PathFinder.find_spec(name, list(locations)) if locations is not None else None
        if self._folder:
            return PathFinder.find_spec(name, [self._folder])
        if name != self._top:
            return None
        imported = sys.modules.get(name)
        spec = getattr(imported, "__spec__", None)
        return spec if spec is not None else importlib.util.find_spec(name)


def _content(spec: ModuleSpec) -> bytes:
    """The file of a module; nothing for a namespace package."""
    loader: Any = spec.loader
    if spec.origin is None or not spec.has_location or not hasattr(loader, "get_data"):
        return b""
    content: bytes = loader.get_data(spec.origin)
    return content


def _imports(source: bytes, package: str) -> Iterator[str]:
    """The names of modules that a module's source may import; attributes of modules are among them."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package.split("."))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(module: str, level: int, package: Sequence[str]) -> str:
    """The name of a module that is imported relative to a package."""
    if not level:
        return module
    return ".".join([*package[: len(package) - level + 1], *filter(None, [module])])
