"""The learner: an adaptation method that owns every weight and chooses the trainable ones."""

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
    """Makes a base; without `pretrained` it has random weights."""

    def __call__(self, pretrained: bool = True) -> Base: ...


class MakeSide(Protocol):
    """Makes a side for a base; without `pretrained` it has random weights."""

    def __call__(self, base: Base, /, pretrained: bool = True) -> Side: ...


class MakeMerger(Protocol):
    """Makes a merger of `count` encodings of the shape of a base."""

    def __call__(self, base: Base, /, count: int) -> Merger: ...


@attrs.frozen
class Components:
    """Factories of the selected components; each call makes a new one. None: not selected."""

    inputs: InputShapes
    base: MakeBase
    side: MakeSide | None = None
    merger: MakeMerger | None = None


@former_members(takes="optional_components", together="joint", uses_taps="needs_taps")
class Learner(nn.Module, ABC):
    """An adaptation method.

    A subclass has a ``Config`` and takes ``(config, components)``. Its state dict is the checkpoint:
    sub-modules, parameters, buffers, and the values of PyTorch's `get_extra_state` and `set_extra_state`
    (tensors, numbers, text, and lists, tuples and dicts of those). Tensors whose size changes belong in a
    `BufferDict`. A resumed run loses all other state, except what `start` rebuilds. Name sub-modules
    ``base``, ``side`` or ``sides``, and ``heads`` where you can: `sidetune export --part` finds them by these
    names.

    The core, not the learner, freezes and trains: before each task it freezes all weights and sets eval mode,
    then makes what `start` returned trainable. The core also chooses device, precision and random seeds.
    """

    Config: ClassVar[type[Any]]
    needs: ClassVar[frozenset[str]] = frozenset({"base"})
    """Kinds of component that the learner requires."""
    optional_components: ClassVar[frozenset[str]] = frozenset()
    """Kinds of component that it also uses if the user selects one."""
    joint: ClassVar[bool] = False
    """Whether all tasks are trained at once, with batches of each in turn (the upper bound of a stream)."""
    needs_taps: ClassVar[bool] = False
    """Whether the learner itself reads the base's taps; taps that nothing reads are not cached."""

    @abstractmethod
    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        """Add what a new task needs; return the modules and parameters to train on it.

        A returned module is trained in training mode. A returned parameter is trained while its module stays
        in eval mode: this trains the weights of a network with batch norm without changing its running
        statistics. The core calls `start` once for each task, in order, under a seed derived from (run seed,
        task id), and on resume in the same order before it loads the state dict. Keep here, in a plain
        attribute, what later tasks need of this one, such as `task.loss` for replayed examples.
        """

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        """The output of a started task's head for a batch of inputs.

        The core may take a frozen base's outputs from the feature cache, by the ids in `inputs`. A learner
        that changes the base's computation from task to task (adapters, norms of its own) passes it
        ``dict(inputs)``, without ids.
        """

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalars to add to the mean loss of `batch`; called in training only, after `forward`.

        In a distributed run, `batch` is one process's shard. Scalars that are means over the batch, or
        independent of it, combine to their single-process value.
        """
        return {}

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        """End a task: estimate what later tasks need, such as a Fisher matrix.

        The task's data is not available later. All weights are frozen and in eval mode. `batches` are the
        task's training batches without end, in another order than in training, on the learner's device.
        """

    def record(self) -> dict[str, float]:
        """Scalars to log during training, such as the merger's weight on the base."""
        return {}
