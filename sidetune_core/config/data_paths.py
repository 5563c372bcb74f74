"""Paths in options: those of a spec file are relative to it, and those of a run to the folder where it began.

The spec of a run keeps its paths as they were given; where its data are read, a relative path that does not
exist in the current folder is looked up in the folder where the run began (`located`).
"""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from sidetune_core.config.differences import flatten, merged, unflatten
from sidetune_core.config.options import (
    OptionInfo,
    alternatives,
    describe,
    flat_options,
    structure,
    unstructure,
)
from sidetune_core.errors import OptionError

if TYPE_CHECKING:
    from sidetune_core.config.resolve import ResolvedRun

C = TypeVar("C")


def path_options(config: type[Any]) -> list[str]:
    """The names of the options of a ``Config`` that are paths, or tuples of paths."""
    return [info.name for info in describe(config) if _is_path(info)]


def relative_to_file(
    config: type[Any], options: Mapping[str, Any], owner: str, folder: str
) -> dict[str, Any]:
    """The options of a component in a spec file, with relative paths relative to the folder of that file.

    A path that exists in the current folder only is that one, as it was in earlier versions.
    """
    given = flat_options(config, options, owner, recorded=True)
    changed = {name: given[name] for name in path_options(config) if given.get(name)}

    def convert(path: Path) -> Path:
        there = _joined(folder, path)
        return path if path.exists() and not there.exists() else there

    return _converted(options, changed, convert)


def begun_here(config: Any) -> str:
    """The current folder, if an option is the relative path of a file that exists; otherwise empty."""
    flat = flatten(unstructure(config))
    for name in path_options(type(config)):
        for text in _listed(flat.get(name.replace("-", "_"))):
            if _is_relative(Path(text)) and Path(text).exists():
                return os.getcwd()
    return ""


def located(config: C, owner: str, folder: str, moved: Mapping[str, Any]) -> C:
    """The ``Config`` of an env with the paths where its data are.

    Args:
        config: as the run has it.
        owner: the env, for messages.
        folder: where the run began; empty if unknown.
        moved: paths in place of those of the run, by option.

    Raises:
        OptionError: an option of `moved` is no path of the env.
    """
    names = path_options(type(config))
    for name in moved:
        if name.replace("_", "-") not in names:
            paths = ", ".join(names) or "none"
            raise OptionError(
                f"a run continues with its own options, so '{name}' of {owner} cannot be set, only paths to "
                f"the data: {paths}"
            )
    values = unstructure(config)
    flat = flatten(values)
    given = {name: flat[name.replace("-", "_")] for name in names if flat.get(name.replace("-", "_"))}
    if folder:
        values = _converted(values, given, lambda path: path if path.exists() else _existing(folder, path))
    changed = unflatten({name.replace("-", "_"): value for name, value in moved.items()})
    if values == unstructure(config) and not changed:
        return config
    return structure(type(config), merged(values, changed), owner)


def with_moved_data(resolved: ResolvedRun, moved: Mapping[str, Any]) -> ResolvedRun:
    """A recorded run whose env reads its data from other paths; its spec stays the same.

    Args:
        resolved: the run.
        moved: paths by option of its env; text as in a command line for tuples too.

    Raises:
        OptionError: an option is no path of the env.
    """
    env, spec = resolved.components["env"], resolved.requested
    config = type(env.config)
    tuples = {info.name for info in describe(config) if info.is_tuple}
    values = {
        name: [value] if name.replace("_", "-") in tuples and isinstance(value, str | Path) else value
        for name, value in moved.items()
    }
    values = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    located(env.config, env.owner, "", values)  # raises the error of an option that is no path
    return attrs.evolve(resolved, requested=attrs.evolve(spec or resolved.to_spec(), moved=values))


def _converted(
    options: Mapping[str, Any], paths: Mapping[str, Any], convert: Callable[[Path], Path]
) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name, value in paths.items():
        new = [str(convert(Path(text))) if _is_relative(Path(text)) else text for text in _listed(value)]
        if new != _listed(value):
            changed[name.replace("-", "_")] = new if isinstance(value, list | tuple) else new[0]
    return merged(dict(options), unflatten(changed)) if changed else dict(options)


def _listed(value: Any) -> list[str]:
    if not value:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def _is_relative(path: Path) -> bool:
    return not path.is_absolute() and not str(path).startswith("~")


def _joined(folder: str, path: Path) -> Path:
    return Path(os.path.normpath(Path(folder) / path))


def _existing(folder: str, path: Path) -> Path:
    there = _joined(folder, path)
    return there if there.exists() else path


def _is_path(info: OptionInfo) -> bool:
    kinds = [kind for hint in alternatives(info.hint) for kind in (hint, *typing.get_args(hint))]
    return Path in kinds
