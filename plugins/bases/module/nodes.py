"""What the submodules of a network return in a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import attrs
from torch import Tensor, nn

from sidetune_core.api import Shape

OUTPUT = "output"
"""The name of a network's own output."""


@attrs.frozen
class Node:
    """The output of one call of a submodule."""

    name: str
    """Of the submodule, or `OUTPUT`."""
    call: int = -1
    """Number of the call in a forward pass, counted from 0, since a network may call a module several times;
    -1 for the last."""


_RECORDED: ContextVar[dict[str, list[Tensor | None]] | None] = ContextVar("recorded", default=None)
"""The outputs by name of the forward pass that the present thread is in."""


class Record:
    """A forward hook that records the output of a submodule; it keeps nothing itself, so that copies of a
    network, and threads, are independent.

    Args:
        name: of the submodule.
        copies: record a copy, since a later layer writes to the output in place.
    """

    def __init__(self, name: str, copies: bool = False) -> None:
        self.name, self.copies = name, copies

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        recorded = _RECORDED.get()
        if recorded is not None:
            tensor = first_tensor(output)
            copied = tensor.clone() if self.copies and tensor is not None else tensor
            recorded.setdefault(self.name, []).append(copied)


def run(network: nn.Module, value: Tensor) -> dict[str, list[Tensor | None]]:
    """A forward pass: what was recorded of each submodule with a hook, in order, and of the network itself.

    A list has None for an output without a tensor.
    """
    recorded: dict[str, list[Tensor | None]] = {}
    token = _RECORDED.set(recorded)
    try:
        output = network(value)
    finally:
        _RECORDED.reset(token)
    recorded[OUTPUT] = [first_tensor(output)]
    return recorded


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that stands for an output: itself; ``last_hidden_state`` of a mapping that has one, as
    those of transformers; otherwise the first in a mapping, tuple or list. None if there is none."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and isinstance(output.get("last_hidden_state"), Tensor):
        return output["last_hidden_state"]  # type: ignore[no-any-return]
    return next(iter(tensors_in(output)), None)


def tensors_in(output: Any) -> Iterator[Tensor]:
    """All tensors of a nested output."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors_in(value)


def shape_of(tensor: Tensor) -> Shape:
    """Without the batch axis."""
    return tuple(tensor.shape[1:])
