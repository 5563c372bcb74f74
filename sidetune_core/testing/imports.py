"""Checks of importing a distribution's plugin modules, observed in a separate Python process."""

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
    """The module prints nothing, and does not change random states or PyTorch's defaults."""
    module = _module(plugin)
    if effects := _observe(plugin)[module]["effects"]:
        raise Broken(f"importing {module} {' and '.join(effects)}; do this in the class, when it is used")


def package_imports_it_only_when_asked(plugin: Plugin) -> None:
    """The package's ``__init__.py`` does not import the plugin: that would load every plugin's libraries."""
    module = _module(plugin)
    if _observe(plugin)[module]["eager"]:
        package = module.rpartition(".")[0]
        raise Broken(
            f"importing {package} already imports {module}; "
            "remove the import from __init__.py, the entry point finds the module"
        )


def _module(plugin: Plugin) -> str:
    return plugin.target.partition(":")[0].strip()


def _observe(plugin: Plugin) -> dict[str, dict[str, list[str]]]:
    if plugin.distribution == LOCAL:
        raise Skipped("its package is not installed, so its import cannot be observed")
    modules = sorted({_module(shipped_plugin) for shipped_plugin in shipped(plugin.distribution)})
    return _observe_imports(tuple(modules), tuple(sys.path))


@functools.cache
def _observe_imports(modules: tuple[str, ...], path: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """By module: the side effects of its import, and whether its package had imported it already."""
    request = json.dumps({"modules": modules, "path": path})
    program = f"from {__name__} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], input=request, capture_output=True, text=True, check=True
    )
    observed: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
    return observed


def _import_all(modules: list[str]) -> dict[str, dict[str, list[str]]]:
    observed: dict[str, dict[str, list[str]]] = {module: {"eager": [], "effects": []} for module in modules}
    for module in modules:
        package = module.rpartition(".")[0]
        if package and package not in modules:
            _effects(package)
            observed[module]["eager"] = [package] if module in sys.modules else []
    for module in modules:
        observed[module]["effects"] = _effects(module)
    return observed


def _effects(module: str) -> list[str]:
    """The side effects of importing a module; another check reports a failed import."""
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
    """Import the modules named on standard input, and write what was observed to standard output."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    print(json.dumps(_import_all(request["modules"])))
