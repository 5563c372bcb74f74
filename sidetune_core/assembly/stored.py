"""How many bytes a learner stores, of which kind: weights, exemplars, and statistics such as a Fisher matrix.

Their sum is a method's memory budget: methods that store examples, copies of networks or matrices instead of
training more parameters can only be compared by it.

The kind of a tensor of the state dict, by the first rule that holds:

1. A module with an attribute `stores` (see `capabilities.DeclaresStored`) decides for all that is in it.
2. Parameters are weights.
3. Where a buffer has a row of the shape of an input for each example, (N, *shape), all buffers of its module
   are exemplars.
4. Buffers of a base, side or merger, or of a module that has parameters too, such as batch norm, are weights.
5. All other buffers are statistics.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import get_args

import attrs
from torch import Tensor, nn

from sidetune_core.errors import PluginError
from sidetune_core.interfaces.capabilities import StoredKind
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.networks import Base, Merger, Side

KINDS: tuple[StoredKind, ...] = get_args(StoredKind)


@attrs.frozen
class StoredBytes:
    """Bytes of the tensors of a state dict by kind; a tensor with several names counts once."""

    weights: int = 0
    exemplars: int = 0
    statistics: int = 0


def stored_bytes(learner: nn.Module, inputs: InputShapes) -> StoredBytes:
    """What a learner stores.

    Args:
        learner: after a task.
        inputs: shapes of the inputs of its tasks.

    Raises:
        PluginError: `stores` of a module is no kind.
    """
    shapes = {tuple(shape) for shape in inputs.values()}
    sizes: dict[StoredKind, int] = dict.fromkeys(KINDS, 0)
    seen: set[int] = set()
    for tensor, kind in _tensors(learner, shapes):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            sizes[kind] += tensor.numel() * tensor.element_size()
    return StoredBytes(**sizes)


def _tensors(learner: nn.Module, shapes: Collection[tuple[int, ...]]) -> Iterator[tuple[Tensor, StoredKind]]:
    """The tensors of a learner with their kinds; `shapes` are those of inputs."""
    left: list[tuple[nn.Module, StoredKind | None, bool]] = [(learner, None, False)]
    while left:
        module, declared, in_network = left.pop()
        # `isinstance` of a protocol takes ten times as long, and every module is looked at after each task
        if (own := getattr(module, "stores", None)) is not None:
            if own not in KINDS:
                raise PluginError(
                    f"{type(module).__name__}.stores is {own!r}; it is one of {', '.join(KINDS)}"
                )
            declared = own
        in_network = in_network or isinstance(module, Base | Side | Merger)
        parameters = [parameter for parameter in module._parameters.values() if parameter is not None]
        for parameter in parameters:
            yield parameter, declared or "weights"
        if module._buffers:
            temporary = module._non_persistent_buffers_set
            buffers = [
                one for name, one in module._buffers.items() if one is not None and name not in temporary
            ]
            kind: StoredKind = "weights" if in_network or parameters else "statistics"
            if (
                any(len(one.shape) > 1 and tuple(one.shape[1:]) in shapes for one in buffers)
                and not in_network
            ):
                kind = "exemplars"
            for buffer in buffers:
                yield buffer, declared or kind
        children = [child for child in module._modules.values() if child is not None]
        left += [(child, declared, in_network) for child in reversed(children)]
