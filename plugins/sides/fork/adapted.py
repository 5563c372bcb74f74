"""A copy of the end of a base that reads the base's own weights, and trains only what is added to them.

What a copy does not train must not be stored for each task. So the parameters of a frozen layer are not
registered in the copy: its attributes are the parameter objects of the base. They move and are restored with
the base, and stay one object with the base's where a whole learner is copied or pickled.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import nn

from sidetune_core.api import (
    Base,
    Continuable,
    Continuation,
    FitError,
    InputShapes,
    called_layers,
    largest_rank,
    low_rank_update,
    parallel_adapter,
)

from .parallel import Parallel


def adapted_copy(
    base: Continuable,
    tap: int,
    keep: Collection[int] | None,
    inputs: InputShapes,
    train: Literal["adapters", "lora", "norm"],
    rank: int,
) -> Continuation:
    """A copy whose parameters are those of its norms and of the layers added to the frozen ones.

    Args:
        base: to copy, which is left as it is.
        tap, keep: see `Continuable.continued`.
        inputs: shapes of the base's inputs.
        train: see `Fork`.
        rank: see `Fork`.

    Raises:
        FitError: see `Continuable.continued`; or the copy does not name its layers as the base does; or no
            layer can be added to.
    """
    assert isinstance(base, Base)
    copied = base.continued(tap, keep)
    called = _called_layers(copied, base, tap, inputs) if train != "norm" else []
    for name, module in copied.named_modules():
        if not is_norm(module):
            _read_from(base, module, name)
    make = parallel_adapter if train == "adapters" else low_rank_update
    adapted = 0
    if train == "lora":
        _check_rank(rank, largest_rank(copied.get_submodule(name) for name in called))
    for name in called:
        layer = copied.get_submodule(name)
        if (added := make(layer, rank)) is not None:
            parent, _, attribute = name.rpartition(".")
            setattr(copied.get_submodule(parent), attribute, Parallel(layer, added))
            adapted += 1
    if train != "norm" and not adapted:
        raise FitError(
            f"side 'fork': after tap {tap} of {type(base).__name__} no layer is a torch.nn.Conv2d or "
            f"torch.nn.Linear itself that --side.train {train} could add to; choose another --side.after, "
            "--side.train full, or norm"
        )
    return copied


def _check_rank(rank: int, largest: int) -> None:
    if largest and rank > largest:
        raise FitError(
            f"side 'fork': --side.rank {rank} is more than the {largest} inputs or outputs of the widest "
            "layer; an update of a lower rank expresses as much"
        )


def is_norm(module: nn.Module) -> bool:
    """Whether a layer normalises, by the name of its class: libraries have many of their own."""
    return "norm" in type(module).__name__.lower()


def _read_from(base: Base, module: nn.Module, name: str) -> None:
    """Put the base's parameters in place of those of a module itself, a copy of the base's of that name."""
    for attribute, parameter in list(module._parameters.items()):
        if parameter is None:
            continue
        key = f"{name}.{attribute}"
        try:
            own = base.get_parameter(key)
        except AttributeError:
            own = None
        if own is None or own.shape != parameter.shape:
            raise FitError(
                f"side 'fork': {type(base).__name__} has no parameter {key}, as the copy of its layers does, "
                "so that the copy cannot read the base's; choose --side.train full"
            )
        delattr(module, attribute)
        module.__dict__[attribute] = own


def _called_layers(copied: Continuation, base: Base, tap: int, inputs: InputShapes) -> list[str]:
    """Names of the convolutions and linear layers that a pass of a blank example calls as modules."""
    device = next((weight.device for weight in copied.parameters()), None)
    blank = {name: torch.zeros(1, *shape, device=device) for name, shape in inputs.items()}
    activation = torch.zeros(1, *base.tap_shapes[tap], device=device)
    try:
        return called_layers(copied.eval(), lambda: copied(activation, blank))
    finally:
        copied.train(base.training)
