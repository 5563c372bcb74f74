"""Nested values as JSON and tensors: how state that is more than a table of tensors gets into a file without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sidetune_core.errors import PluginError


def flatten(value: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """A value as something that JSON can hold, and the tensors that were in it by name.

    Tables with keys that are text or whole numbers, lists, tuples, tensors, numbers, text, truth values and None may be nested freely.
    In the first result a tensor is ``{"tensor": its name}``, a table ``{"table": [[key, value], ...]}``, a tuple ``{"tuple": [...]}``.

    Args:
        value: what to take apart.
        name: what the tensors' names begin with; further words are the keys on the way, joined by ``/``.

    Raises:
        PluginError: there is something else in it.
    """
    tensors: dict[str, Tensor] = {}
    return _plain(value, name, tensors), tensors


def unflatten(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that was taken apart.

    Raises:
        KeyError: one of the tensors is not there.
    """
    if isinstance(plain, list):
        return [unflatten(one, tensors) for one in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, inner),) = plain.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "tuple":
        return tuple(unflatten(one, tensors) for one in inner)
    return {key: unflatten(one, tensors) for key, one in inner}


def tensor_names(plain: Any) -> set[str]:
    """The names of the tensors that belong to a value which was taken apart."""
    if isinstance(plain, list):
        return set().union(*map(tensor_names, plain))
    if not isinstance(plain, dict):
        return set()
    ((kind, inner),) = plain.items()
    return {inner} if kind == "tensor" else tensor_names(inner)


def _plain(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = name if name not in tensors else f"{name}#{len(tensors)}"
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
        return {"table": [[key, _plain(one, _below(name, key), tensors)] for key, one in value.items()]}
    if type(value) in (list, tuple):
        items = [_plain(one, _below(name, place), tensors) for place, one in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise PluginError(
        f"{name.replace('/', ': ')} holds a {type(value).__name__}, which cannot be written to a checkpoint; state may hold tensors, "
        "numbers, text, None, and lists, tuples and tables of those (see get_extra_state of torch.nn.Module)"
    )


def _below(name: str, key: object) -> str:
    return f"{name}/{key}" if name else str(key)
