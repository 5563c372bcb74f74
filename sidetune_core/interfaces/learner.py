"""The learner: an adaptation method. It owns every weight and says which of them may move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

import attrs
from torch import Tensor, nn

from sidetune_core.interfaces.former_names import former_members
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.networks import Base, Merger, Side
from sidetune_core.interfaces.tasks import Batch, Task


class MakeBase(Protocol):
    """Makes a base; one that is not `pretrained` has random weights."""

    def __call__(self, pretrained: bool = True) -> Base: ...


class MakeSide(Protocol):
    """Makes a side for a base; one that is not `pretrained` has random weights."""

    def __call__(self, beside: Base, pretrained: bool = True) -> Side: ...


class MakeMerger(Protocol):
    """Makes a merger of `count` encodings of that base's shape."""

    def __call__(self, beside: Base, count: int) -> Merger: ...


@attrs.frozen
class Components:
    """Factories of the parts that the user chose; each call makes a new one. A slot that was left empty is None."""

    inputs: InputShapes
    base: MakeBase
    side: MakeSide | None = None
    merger: MakeMerger | None = None


@former_members(takes="optional_components", together="joint", uses_taps="needs_taps")
class Learner(nn.Module, ABC):
    """An adaptation method.

    A subclass has a ``Config`` and takes ``(config, parts)``. Its state dict is the checkpoint: sub-modules, parameters, buffers, and what
    PyTorch's `get_extra_state` and `set_extra_state` add (tensors, numbers, text, and lists, tuples and tables of those). Tensors whose
    size changes go into a `BufferDict`. Other state is lost on resume, after a task and in the middle of one, but for what `start` makes
    anew. Its sub-modules carry the words of this project where they can (``base``, ``side`` or ``sides``, ``heads``), for that is how
    `sidetune export --part` finds them.

    The core, not the learner, freezes and trains: before each task everything is frozen and in eval mode, then what `start` returned is
    switched on. Devices, precision and random seeds are the core's as well.
    """

    Config: ClassVar[type[Any]]
    needs: ClassVar[frozenset[str]] = frozenset({"base"})
    """Which kinds of part the learner cannot do without."""
    optional_components: ClassVar[frozenset[str]] = frozenset()
    """Which further kinds it can use when the user names one."""
    joint: ClassVar[bool] = False
    """Whether all tasks are learnt at once, batch by batch in turn, instead of one after another (the upper bound of a stream)."""
    needs_taps: ClassVar[bool] = False
    """Whether the learner itself reads the base's taps; if nobody does, the core need not remember them."""

    @abstractmethod
    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        """Grow for a new task; return what may move while it is learnt.

        A module moves and is in training mode; a bare parameter moves while its module stays in eval mode (this is how weights of a
        network with batch norm are trained without moving its running statistics). Called under a seed made of (run seed, task id), once
        for each task, in order; and again in the same order on resume, before the state is loaded. What later steps need of a task that
        is over, such as the `loss` of examples that are replayed, may be kept in a plain attribute here.
        """

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        """The output of a started task's head for a batch of inputs.

        A frozen base may be answered from the feature store, by the ids that `inputs` carry. A learner that changes what a base computes
        from task to task (keys, norms of its own) hands it ``dict(inputs)``, which carries none.
        """

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalars that are added to the mean loss of `batch`, after `forward` has run on it. Called in training only.

        In a run of several processes `batch` is one process's share. A scalar that is a mean over the batch, or does not depend on it,
        is put together to what one process would have.
        """
        return {}

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        """The task has been learnt; its data will not come back. Estimate here what the future needs, such as a Fisher matrix.

        Everything is frozen and in eval mode by then. `batches` are the task's training batches without end, in a fresh order and on the
        learner's device.
        """

    def record(self) -> dict[str, float]:
        """Figures worth a curve, such as the merger's weight on the base."""
        return {}
