"""Checks of importing a distribution's plugin modules, observed in a separate Python process."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import subprocess
import sys
from typing import Final

import torch

from sidetune_core.config.process_state import (
    changed_settings,
    process_kept_alive,
    process_state_kept,
    settings,
)
from sidetune_core.config.registry import LOCAL, Plugin, shipped
from sidetune_core.testing.findings import Broken, Skipped
from sidetune_core.testing.state import random_state

UNUSUAL_THREADS: Final = 3
"""The number of threads during the observation: a module that sets one, sets 1 or that of all processors."""


def import_has_no_side_effects(plugin: Plugin) -> None:
    """The module prints nothing, and changes no state of the process.

    Observed are random states, PyTorch's defaults, the current folder, signal handlers, warning filters and
    logging (see `process_state.settings`). In a run, the registry restores them.
    """
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
    skip = "from sidetune_core.config.package_metadata import damaged_metadata_skipped as skipped"
    program = f"{skip}\nwith skipped():\n    from {__name__} import main\n    main()"
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
    with process_state_kept():  # for the modules that follow
        before = {name: setting.read() for name, setting in settings().items()}
        state, printed = random_state(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(BaseException), process_kept_alive():
            importlib.import_module(module)
        effects = [f"prints {printed.getvalue().splitlines()[0]!r}"] if printed.getvalue() else []
        if random_state() != state:
            effects.append("draws random numbers or seeds a generator")
        if changed := changed_settings(before):
            effects.append(f"changes {', '.join(changed)}")
        return effects


def main() -> None:
    """Import the modules named on standard input, and write what was observed to standard output."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    torch.set_num_threads(UNUSUAL_THREADS)
    print(json.dumps(_import_all(request["modules"])))
