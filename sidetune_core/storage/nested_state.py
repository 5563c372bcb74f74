"""Nested state as JSON and named tensors, so that it can be written to a file without pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sidetune_core.errors import PluginError


def flatten(value: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Split a nested value into plain JSON and named tensors.

    Tensors, numbers, strings, booleans, None, lists, tuples, and mappings with string or integer keys may be
    nested freely. In the JSON a tensor is ``{"tensor": its name}``, a mapping ``{"table": [[key, value],
    ...]}``, a tuple ``{"tuple": [...]}``, and a number that is not finite ``{"float": "nan"}``.

    Args:
        value: the nested value.
        name: prefix of the tensors' names; the keys on the way follow, joined by ``/``.

    Raises:
        PluginError: the value contains another type.
    """
    tensors: dict[str, Tensor] = {}
    return _flatten(value, name, tensors), tensors


def unflatten(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `flatten` has split.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(plain, list):
        return [unflatten(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(unflatten(item, tensors) for item in content)
    return {key: unflatten(item, tensors) for key, item in content}


def tensor_names(plain: Any) -> set[str]:
    """The names of the tensors that `plain`, the JSON of a flattened value, refers to."""
    if isinstance(plain, list):
        return set().union(*map(tensor_names, plain))
    if not isinstance(plain, dict):
        return set()
    ((kind, content),) = plain.items()
    return {content} if kind == "tensor" else tensor_names(content)


def entries(plain: Any) -> dict[str, Any]:
    """The entries of a flattened mapping with text keys."""
    return dict(plain["table"])


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = name if name not in tensors else f"{name}#{len(tensors)}"
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
        return {"table": [[key, _flatten(item, _join(name, key), tensors)] for key, item in value.items()]}
    if type(value) in (list, tuple):
        items = [_flatten(item, _join(name, index), tensors) for index, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if value is None or type(value) in (bool, int, str):
        return value
    raise PluginError(
        f"{name.replace('/', ': ')} holds a {type(value).__name__}, which cannot be written to a checkpoint; "
        "state may hold tensors, numbers, strings, None, and lists, tuples and mappings of those (see "
        "get_extra_state of torch.nn.Module)"
    )


def _join(name: str, key: object) -> str:
    return f"{name}/{key}" if name else str(key)
