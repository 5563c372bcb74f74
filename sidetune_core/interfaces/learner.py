"""The learner: an adaptation method that owns every weight and chooses the trainable ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.errors import FitError
from sidetune_core.interfaces.former_names import former_members, warn_of_former
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.joint_scores import joint_scores
from sidetune_core.interfaces.networks import Base, Merger, Side
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.interfaces.tasks import Batch, Task, mean_loss
from sidetune_core.interfaces.training import Phase, Trainable, TrainingStep
from sidetune_core.scenarios import Scenario


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
    scenario: Scenario = "task"
    """Of the run; a learner with an output layer that tasks share gives it to its `Heads`."""


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

    The moments of a task, in order::

        start                        the task is new; returns what to train
        for each phase:
            start_phase              (from the second phase on)
            for each step:
                losses               once for each micro-batch
                after_backward       gradients are complete
                after_step           weights have changed
        finish                       the task ends
        predict                      evaluation of all tasks so far

    Only `start` and `forward` are required.
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
    tap_indices: tuple[int, ...] | None = None
    """With `needs_taps`, the indices of the taps that it reads; None for all (see `Side.tap_indices`)."""

    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"task"})
    """The scenarios in which the learner is defined; it is refused in others (see `predict`)."""
    scenario: Scenario = "task"
    """That of the run; set by the core when the learner is built."""
    task_outputs: Mapping[str, Outputs] = MappingProxyType({})
    """The classes of each task that was started, by id in order; set by the core in the scenarios ``domain``
    and ``class``."""

    @property
    def independent_tasks(self) -> bool:
        """Whether no task reads or changes what another one trains, and `start` does not depend on the
        training of earlier tasks: a task has the same bits whether those before it were trained or only
        started. Such tasks can be trained side by side (``--workers``). An attribute ``independent_tasks =
        True`` of the class says so of all its learners.
        """
        return False

    @abstractmethod
    def start(self, task: Task) -> Trainable:
        """Add what a new task needs; return what to train on it: modules, parameters and `ParamGroup` s.

        A returned module is trained in training mode. A returned parameter is trained while its module stays
        in eval mode: this trains the weights of a network with batch norm without changing its running
        statistics. A `ParamGroup` has a learning rate or weight decay of its own. Buffers that change in
        training belong to a returned module. If nothing is returned, the task has no training steps.

        The core calls `start` once for each task, in order, under a seed derived from (run seed, task id),
        and on resume in the same order before it loads the state dict. Keep here, in a plain attribute, what
        later tasks need of this one, such as the task itself for the loss of replayed examples.
        """

    def phases(self, task: Task) -> Sequence[Phase]:
        """The phases of a task that has just been started, by default a single one.

        Each phase has its fraction of the task's steps, a new optimiser and its own learning-rate schedule.
        Not for joint training.
        """
        return (Phase(),)

    def start_phase(self, task: Task, phase: Phase) -> Trainable | None:
        """Begin a phase after the first, for example by pruning weights; return what to train from here on.

        None, the default, continues to train the same. It runs without gradients. Like `start` it is called
        again on resume, before the state dict is loaded, and then sees the weights of a new learner.
        """
        return None

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        """The output of a started task's head for a batch of inputs.

        In the scenario ``class``, a network that all tasks share returns the logits of the task's own
        classes, followed by those of all other started tasks in order, as its `Heads` do: the loss of the
        task is then that of a softmax over all classes so far. A network with parts for each task returns the
        task's own.

        It changes nothing and computes the same in training and in evaluation; what training adds belongs in
        `losses`. The core may take a frozen base's outputs from the feature cache, by the ids in `inputs`. A
        learner that changes the base's computation from task to task (adapters, norms of its own) passes it
        ``dict(inputs)``, without ids.
        """

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        """Named scalars, of which the sum is minimised; by default the mean loss of the task's head.

            return {**super().losses(batch, task, step), "decay": self.weight.square().sum()}

        Each has a curve of its own. A learner without gradients returns ``{}``, or scalars that need none.
        Random numbers are the same in all processes, and the core averages over micro-batches.
        Forward passes have the run's precision here, and batch norm and dropout see the whole batch in a
        distributed run, in which `batch` is one process's shard: scalars that are means over the batch, or
        independent of it, combine to their single-process value. A forward pass of several rows for each
        example keeps the rows of an example next to each other. See `TrainingStep.gather` for what is
        stored and `TrainingStep.rows` for what is replayed.
        """
        return {"loss": mean_loss(task, self(batch.inputs, task.id), batch)}

    def after_backward(self, task: Task, step: TrainingStep) -> None:
        """Read or change gradients: those of all micro-batches and processes, not yet clipped.

        Forward passes belong in ``with step.autocast():``. All processes have the same gradients and must
        make the same changes: nothing is sharded or synchronised here and in `after_step`.
        """

    def after_step(self, task: Task, step: TrainingStep) -> None:
        """Read or change weights after the optimiser has changed them, weight decay and momentum included.

        It runs without gradients. Changes must be the same in all processes.
        """

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        """End a task: estimate what later tasks need, such as a Fisher matrix.

        The task's data is not available later. All weights are frozen and in eval mode. `batches` are the
        task's training batches without end, in another order than in training, on the learner's device, whole
        in every process. They have ``--train.batch-size`` examples: count examples, not batches, for an
        estimate that does not depend on ``--train.accumulate``. There is no autocast. The state of the first
        process is copied to all.
        """

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        """The output in evaluation, without gradient: by default `forward`.

        Override it where answers are computed in another way than in training, as by the nearest class mean.
        A task is also evaluated between its `start` and its training, when `finish` has not yet been called.

        Without a task id, in the scenarios ``domain`` and ``class``, the default is the output of `forward`
        for the latest task if it has the classes of all tasks (a shared network whose `Heads` know the
        scenario), and otherwise, in ``class``, the log-probabilities of all tasks, ``log p_t(c|x)``, one
        after another (see `joint_scores`).

        Args:
            inputs: a batch.
            task_id: the task that the examples belong to; the output has its classes. None where it is not
                known: the output then has the logits of the classes of all tasks that were started, in order,
                along axis 1; in the scenario ``domain`` those of the classes that all tasks have.

        Raises:
            FitError: the learner needs to know the task.
        """
        if task_id is not None:
            output: Tensor = self(inputs, task_id)
            return output[:, : self.task_outputs[task_id].size] if self.scenario == "class" else output
        if self.scenario == "task" or not self.task_outputs:
            raise FitError(
                f"learner {type(self).__name__} needs the task of each example; "
                "one that does without defines predict() for task_id None"
            )
        latest: Tensor = self(inputs, [*self.task_outputs][-1])
        if self.scenario == "domain":
            return latest
        sizes = [outputs.size or 0 for outputs in self.task_outputs.values()]
        if latest.shape[1] == sum(sizes):  # its own classes are the first
            return torch.cat([latest[:, sizes[-1] :], latest[:, : sizes[-1]]], 1)
        outputs = [self(inputs, started) for started in self.task_outputs]
        return joint_scores(outputs, None, self.scenario)

    def record(self) -> dict[str, float]:
        """Scalars to log during training, such as the merger's weight on the base."""
        return {}

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """Deprecated: override `losses`. Named scalars that are added to those of `losses`, until version
        0.3.
        """
        return {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "penalty" in vars(cls) and "losses" not in vars(cls):
            warn_of_former(f"{cls.__module__}.{cls.__qualname__}.penalty", "Learner.losses")


def has_former_penalty(learner: Learner) -> bool:
    """Whether the deprecated `Learner.penalty` is to be called: it is overridden, and not by a class that
    defines `losses` itself.
    """
    for cls in type(learner).__mro__:
        if cls is Learner or "losses" in vars(cls):
            return False
        if "penalty" in vars(cls):
            return True
    return False
