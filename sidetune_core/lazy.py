"""Public names that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any


def lazy_names(
    module: str, names: Mapping[str, str], former: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """A module's ``__getattr__`` for names that live in other modules.

    Args:
        module: its ``__name__``.
        names: by name, the module below ``sidetune_core`` that defines it.
        former: by former name, ``module:name`` of its replacement; using one is a `DeprecationWarning`.
    """

    def get(name: str) -> Any:
        if name in names:
            return resolve_name(f"sidetune_core.{names[name]}:{name}")
        if former is not None and name in former:
            present = former[name].replace(":", ".")
            message = f"{module}.{name} is now {present}; the former name stops working in version 0.3"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return resolve_name(former[name])
        raise AttributeError(f"module '{module}' has no attribute '{name}'")

    return get
