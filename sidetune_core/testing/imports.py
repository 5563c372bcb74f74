"""What happens when the modules of a distribution's plugins are imported: seen in an interpreter of its own, since it happens once."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import subprocess
import sys

import torch

from sidetune_core.config.registry import LOCAL, Plugin, shipped
from sidetune_core.testing.findings import Broken, Skipped
from sidetune_core.testing.state import random_state


def import_has_no_side_effects(plugin: Plugin) -> None:
    """The module prints nothing, and leaves random states and PyTorch's defaults as they are."""
    if effects := _observed(plugin)[_module(plugin)]["effects"]:
        raise Broken(
            f"importing {_module(plugin)} {' and '.join(effects)}; do so in the class, when it is used"
        )


def package_imports_it_only_when_asked(plugin: Plugin) -> None:
    """A package that imports all its plugins in ``__init__.py`` loads every library of each of them for any of them."""
    if _observed(plugin)[_module(plugin)]["eager"]:
        package = _module(plugin).rpartition(".")[0]
        raise Broken(
            f"importing {package} already imports {_module(plugin)}; leave it out of __init__.py, the entry point finds it"
        )


def _module(plugin: Plugin) -> str:
    return plugin.target.partition(":")[0].strip()


def _observed(plugin: Plugin) -> dict[str, dict[str, list[str]]]:
    if plugin.distribution == LOCAL:
        raise Skipped("its package is not installed, so how it is imported cannot be watched")
    modules = sorted({_module(one) for one in shipped(plugin.distribution)})
    return _watched(tuple(modules), tuple(sys.path))


@functools.cache
def _watched(modules: tuple[str, ...], path: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """By module: what its import did, and whether its package had imported it already."""
    asked = json.dumps({"modules": modules, "path": path})
    program = f"from {__name__} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], input=asked, capture_output=True, text=True, check=True
    )
    found: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
    return found


def _watch(modules: list[str]) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {module: {"eager": [], "effects": []} for module in modules}
    for module in modules:
        package = module.rpartition(".")[0]
        if package and package not in modules:
            _effects(package)
            found[module]["eager"] = [package] if module in sys.modules else []
    for module in modules:
        found[module]["effects"] = _effects(module)
    return found


def _effects(module: str) -> list[str]:
    """What importing a module does besides; an import that fails is told by another check."""
    state, defaults = random_state(), _defaults()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(Exception):
        importlib.import_module(module)
    effects = []
    if printed.getvalue():
        effects.append(f"prints {printed.getvalue().splitlines()[0]!r}")
    if random_state() != state:
        effects.append("draws random numbers or seeds a generator")
    if _defaults() != defaults:
        effects.append("changes defaults of PyTorch (type, threads, gradient mode)")
    return effects


def _defaults() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


def main() -> None:
    """Read what to import from standard input, and say on standard output what happened."""
    given = json.load(sys.stdin)
    sys.path[:] = given["path"]
    print(json.dumps(_watch(given["modules"])))
