"""Bases computed once per input, for all tasks of a call.

The hook is `Base.__call__`, as for the feature cache: learners do not know about it. A base whose computation
a learner changes from task to task is computed for each task, as in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.assembly.make import without_weights
from sidetune_core.config.resolve import ResolvedComponent
from sidetune_core.feature_cache.frozen import BaseState, has_additions
from sidetune_core.interfaces.inputs import Features, Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import Base


@attrs.define(eq=False)
class Identity:
    """What bases with the same features have in common."""

    readers: set[tuple[int, str | None]] = attrs.field(factory=set)
    """Base and task of the calls so far: a base of a single task is computed for its rows only."""


@attrs.define(eq=False)
class SharedBatch:
    """A batch on its way through several tasks, with the features of bases that were computed for it."""

    inputs: Inputs
    """On the device, with ``ids`` 0, 1, …: a task that gets some of the rows has their ids."""
    _features: dict[Identity, Features] = attrs.field(factory=dict, init=False)

    def lookup(self, identity: Identity, base: Base, inputs: Inputs) -> Features:
        """The features of some rows; those of the whole batch are computed when they are first needed."""
        ids, unseen = _ids(inputs), not identity.readers
        identity.readers.add((id(base), inputs.task))
        if identity not in self._features:
            if not unseen and len(identity.readers) == 1 and len(ids) < len(_ids(self.inputs)):
                return _compute(base, inputs)
            self._features[identity] = _compute(base, self.inputs)
        features = self._features[identity]
        if len(ids) == len(features.encoding):
            return features
        rows = _as_slice(ids)
        return Features(features.encoding[rows], tuple(tap[rows] for tap in features.taps))


_BATCH: ContextVar[SharedBatch | None] = ContextVar("shared_batch", default=None)
"""The batch of the present call, of each thread."""


@contextmanager
def shared(batch: SharedBatch) -> Iterator[None]:
    """Compute each base at most once for a batch, within a block of this thread."""
    token = _BATCH.set(batch)
    try:
        yield
    finally:
        _BATCH.reset(token)


class ServedBase:
    """The `Cache` of a base: the features of the present call."""

    def __init__(self, base: Base, component: ResolvedComponent) -> None:
        self.base, self.identity = base, Identity()
        self._component = (component.choice, without_weights(component))
        self._state = BaseState(base)

    def lookup(self, base: Base, inputs: Inputs) -> Features:
        """The features of a batch; computed for itself if hooks or weights have changed, as within
        `torch.func.functional_call`.
        """
        batch = _BATCH.get()
        if batch is None or base is not self.base or not self._state.is_same():
            return _compute(base, inputs)
        return batch.lookup(self.identity, base, inputs)

    def share(self, other: ServedBase) -> bool:
        """Use the tensors and the features of another base, if that is the same; returns whether it is."""
        if other.identity is self.identity:
            return True
        own, others = _tensors(self.base), _tensors(other.base)
        alike = (self._component, self.base._precision) == (other._component, other.base._precision)
        if not alike or not _are_equal(own, others):
            return False
        for name, tensor in own.items():
            tensor.data = others[name].data
        self.identity, self._state = other.identity, BaseState(self.base)
        return True

    def __deepcopy__(self, _: dict[int, object]) -> None:
        """A copy of a base is for itself."""


def serve_bases(learner: Learner, component: ResolvedComponent | None) -> list[ServedBase]:
    """Serve the bases of a frozen learner, without those that have hooks or modules which were added later.

    Args:
        learner: frozen and in eval mode.
        component: its base; None if it has none.
    """
    if component is None:
        return []
    served = []
    for base in _bases(learner, component.cls):
        if not has_additions(base):
            base.cache = ServedBase(base, component)
            served.append(base.cache)
    return served


def _bases(module: nn.Module, cls: type[Any]) -> Iterator[Base]:
    """The outermost bases of a class; those within another base, and parts of one in a side, are no networks
    of their own.
    """
    for child in module.children():
        if isinstance(child, Base):
            if type(child) is cls:
                yield child
        else:
            yield from _bases(child, cls)


def _compute(base: Base, inputs: Inputs) -> Features:
    features: Features = nn.Module.__call__(base, inputs)
    return features


def _tensors(base: Base) -> dict[str, Tensor]:
    return {**dict(base.named_parameters()), **dict(base.named_buffers())}


def _are_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two networks have bit-identical tensors on one device."""
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype
        and tensor.device == second[name].device
        and tensor.shape == second[name].shape
        and torch.equal(_bits(tensor), _bits(second[name]))
        for name, tensor in first.items()
    )


def _bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor: NaN is equal to itself, and 0 differs from -0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _ids(inputs: Inputs) -> Tensor:
    assert inputs.ids is not None
    return inputs.ids


def _as_slice(ids: Tensor) -> slice | Tensor:
    """Rows as a slice, which copies nothing, if they follow each other."""
    if not len(ids):
        return ids
    first = int(ids[0])
    following = torch.arange(first, first + len(ids), device=ids.device)
    return slice(first, first + len(ids)) if torch.equal(ids, following) else ids
