"""Code that the user names in options of env 'gym': modules of the current folder, and wrappers.

Worker processes import this module, so it does not import torch.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium

Env = gymnasium.Env[Any, Any]


@contextmanager
def current_folder() -> Iterator[None]:
    """Import modules of the current folder before installed ones, for a block."""
    folder = os.getcwd()
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # a module may have removed it
            sys.path.remove(folder)


def import_module_of(id: str) -> None:
    """Import the module of an id ``module:Id-v0``, which registers the environment.

    Raises:
        ImportError: there is no such module, or it cannot be imported.
    """
    module, colon, _ = id.rpartition(":")
    if not colon:
        return
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module was found, and imports another one that was not
        raise ModuleNotFoundError(
            f"no module named '{error.name}' in the current folder {os.getcwd()}, and none is installed",
            name=error.name,
        ) from error


def wrapped(env: Env, wrappers: Sequence[str]) -> Env:
    """An environment in its wrappers ``module:Wrapper``, the first one innermost.

    Raises:
        ValueError: a name is not one of a class or function that makes an environment from an environment.
    """
    for name in wrappers:
        if not re.fullmatch(r"[\w.]+:[\w.]+", name):
            raise ValueError(f"--env.wrappers {name}: write module:Wrapper, such as my_wrappers:Reward")
        module = name.partition(":")[0]
        import_module_of(name)
        try:
            make = pkgutil.resolve_name(name)
        except AttributeError as error:
            raise ValueError(f"--env.wrappers {name}: module '{module}' has no such attribute") from error
        if not callable(make):
            raise ValueError(f"--env.wrappers {name} is neither a class nor a function")
        try:
            env = make(env)
        except TypeError as error:
            raise ValueError(
                f"--env.wrappers {name}: it is called with the environment alone, and failed ({error}). A "
                "wrapper with further arguments needs a function of yours, such as def my_wrapper(env): "
                "return Wrapper(env, size=3)"
            ) from error
        if not isinstance(env, gymnasium.Env):
            raise ValueError(f"--env.wrappers {name} returned a {type(env).__name__}, not a gymnasium.Env")
    return env
