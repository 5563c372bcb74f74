"""A wrapper that observes a learner while the core trains it."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sidetune_core.interfaces.buffers import BufferDict
from sidetune_core.interfaces.learner import Learner, has_former_penalty
from sidetune_core.interfaces.tasks import Batch, Task
from sidetune_core.interfaces.training import Phase, Trainable, TrainingStep, members
from sidetune_core.system.signals import StopRequest
from sidetune_core.testing import attributes, sample
from sidetune_core.testing.advice import NO_PENALTY_YET, SEEDED_BY_CORE
from sidetune_core.testing.findings import Broken
from sidetune_core.testing.state import changed, named_tensors, random_state, snapshot

FINISH_BATCHES = 256
"""Largest number of batches that `finish` may take of a task that has 24 examples."""


class Witness(Learner):
    """Wraps a learner, checks what it returns, and records what changes between `start` and `finish`.

    In step `last_step`, counted over all tasks, it requests a stop.
    """

    Config: ClassVar[type[Any]] = sample.Config

    def __init__(self, learner: Learner, stop: StopRequest, last_step: int | None) -> None:
        super().__init__()
        self.learner = learner
        self._stop, self._steps_left = stop, last_step
        self.joint = learner.joint  # type: ignore[misc]
        self._trainable: set[str] = set()
        self._may_change: set[str] = set()
        self._filled_buffers: tuple[str, ...] = ()
        self._waiting: dict[str, list[nn.Parameter]] = {}
        self._before: Mapping[str, bytes] = {}
        self.unexpected_changes: list[str] = []
        """Tensors that a loss changed and that `start` did not return."""
        self.made_in_training: list[str] = []
        """Tensors that were not there after `start`."""
        self.untrained_tasks: list[str] = []
        """Tasks in which nothing changed that `start` returned."""
        self.unexpected_gradients: list[str] = []
        """Parameters that require a gradient and that `start` did not return."""
        self.unreached: list[str] = []
        """Returned members that got no gradient in any step of a task."""
        self.first_penalties: dict[str, float] | None = None
        """Nonzero penalties of the first batch."""
        self.changed_inputs: list[str] = []
        """Inputs and targets that a loss changed in place."""
        self.random_states: list[tuple[tuple[object, ...], tuple[object, ...]]] = []
        """Of the global generators, before and after the losses of each step."""
        self.reads_of_training: list[str] = []
        """Lines that read ``training`` of the learner, while it was never set."""
        self.unseen_writes: list[str] = []
        """Tensors that were not trained, and were written to in a way that PyTorch does not record."""
        self.tensors_kept: list[tuple[str, dict[str, int]]] = []
        """After each step the task, and the number of tensors by plain attribute."""

    @property
    def stream_length(self) -> int:
        """That of the learner."""
        return self.learner.stream_length

    @stream_length.setter
    def stream_length(self, length: int) -> None:
        self.learner.stream_length = length

    def start(self, task: Task) -> Trainable:
        seed = torch.initial_seed()
        trainable = self.learner.start(task)
        if torch.initial_seed() != seed:
            raise Broken(f"start() seeds {SEEDED_BY_CORE}")
        if not self.joint:
            self._may_change, self._filled_buffers, self._waiting = set(), (), {}
        self._watch(trainable)
        self._before = snapshot(self.learner)
        return trainable

    @property
    def independent_tasks(self) -> bool:
        return self.learner.independent_tasks

    def phases(self, task: Task) -> Sequence[Phase]:
        return self.learner.phases(task)

    def start_phase(self, task: Task, phase: Phase) -> Trainable | None:
        with self._moment("start_phase"):
            trainable = self.learner.start_phase(task, phase)
        if trainable is not None:
            self._watch(trainable)
        return trainable

    def _watch(self, trainable: Trainable) -> None:
        """Note what may change from now on."""
        returned_members = members(trainable)
        tensors = {id(tensor) for returned in returned_members for tensor in _tensors(returned)}
        names = {name for name, tensor in named_tensors(self.learner) if id(tensor) in tensors}
        self._trainable = self._trainable | names if self.joint else names
        self._may_change |= names
        modules = [returned for returned in returned_members if isinstance(returned, nn.Module)]
        buffers = {
            id(child) for module in modules for child in module.modules() if isinstance(child, BufferDict)
        }
        self._filled_buffers += tuple(
            f"{name}." for name, module in self.learner.named_modules() if id(module) in buffers
        )
        own = {
            id(one): name for name, one in (*self.learner.named_modules(), *self.learner.named_parameters())
        }
        for returned in returned_members:
            parameters = [*returned.parameters()] if isinstance(returned, nn.Module) else [returned]
            if parameters:
                self._waiting[own.get(id(returned), type(returned).__name__) or "the learner"] = parameters

    @contextmanager
    def _moment(self, name: str) -> Iterator[None]:
        """A moment in which the learner may change what it likes: it is given there to do so."""
        if name != "penalty" and getattr(type(self.learner), name) is getattr(Learner, name):
            yield
            return
        before = snapshot(self.learner)
        yield
        self._may_change.update(changed(before, snapshot(self.learner)))

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        output: Tensor = self.learner(inputs, task_id)
        return output

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        return self.learner.predict(inputs, task_id)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        self.unexpected_gradients += [
            name
            for name, parameter in self.learner.named_parameters()
            if parameter.requires_grad and name not in self._trainable
        ]
        given = {**batch.inputs.tensors, "targets": batch.targets}
        copies = {name: value.clone() for name, value in given.items()}
        seed, before = torch.initial_seed(), random_state()
        losses = {**self.learner.losses(batch, task, step)}
        losses |= self._penalties(batch)
        self.random_states.append((before, random_state()))
        if torch.initial_seed() != seed:
            raise Broken(f"forward() or losses() seeds {SEEDED_BY_CORE}")
        self.changed_inputs += [name for name, value in given.items() if not torch.equal(value, copies[name])]
        for name, value in losses.items():
            _check_loss(name, value)
        return losses

    def _penalties(self, batch: Batch) -> dict[str, Tensor]:
        """Of the deprecated `Learner.penalty`."""
        penalties: dict[str, Tensor] = {}
        if has_former_penalty(self.learner):
            with self._moment("penalty"):
                penalties = self.learner.penalty(batch)
        for name, value in penalties.items():
            _check_loss(name, value, "penalty")
        if self.first_penalties is None:
            self.first_penalties = {name: float(value.detach()) for name, value in penalties.items() if value}
        return penalties

    def after_backward(self, task: Task, step: TrainingStep) -> None:
        self._waiting = {
            name: parameters
            for name, parameters in self._waiting.items()
            if all(parameter.grad is None for parameter in parameters)
        }
        with self._moment("after_backward"):
            self.learner.after_backward(task, step)

    def after_step(self, task: Task, step: TrainingStep) -> None:
        with self._moment("after_step"):
            self.learner.after_step(task, step)
        self.tensors_kept.append((task.id, attributes.counts(self.learner)))
        if self._steps_left is not None:
            self._steps_left -= 1
            if not self._steps_left:
                self._stop.number = signal.SIGINT

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        after = snapshot(self.learner)
        names = changed(self._before, after)
        unexpected = [
            name
            for name in names
            if name not in self._may_change and not name.startswith(self._filled_buffers)
        ]
        self.made_in_training += [name for name in unexpected if name not in self._before]
        self.unexpected_changes += [name for name in unexpected if name in self._before]
        parameters = {name for name, _ in self.learner.named_parameters(remove_duplicate=False)}
        returned = self._may_change & parameters
        if returned and not self._may_change.intersection(names):
            self.untrained_tasks.append(task.id)
        self.unreached += self._waiting
        self.learner.finish(task, _limited(batches, task))

    def record(self) -> dict[str, float]:
        record = self.learner.record()
        for name, value in record.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise Broken(f"record() returns '{name}' {value!r}; return finite floats, float(x.detach())")
        return record


def _limited(batches: Iterator[Batch], task: Task) -> Iterator[Batch]:
    """The first batches.

    Raises:
        Broken: more are wanted.
    """
    for number, batch in enumerate(batches, 1):
        if number > FINISH_BATCHES:
            raise Broken(
                f"finish() takes more than {FINISH_BATCHES} batches of task '{task.id}'; batches never end: "
                "stop after some, such as an option's number of examples"
            )
        yield batch


def _check_loss(name: str, value: object, kind: str = "loss") -> None:
    if not isinstance(value, Tensor):
        raise Broken(f"{kind} '{name}' is a {type(value).__name__}; return a tensor without axes")
    if value.ndim:
        shape = tuple(value.shape)
        raise Broken(f"{kind} '{name}' has shape {shape}; return a tensor without axes: sum or average it")
    if not value.isfinite():
        advice = NO_PENALTY_YET if kind == "penalty" else "check divisions, logarithms, initial weights"
        raise Broken(f"{kind} '{name}' is {float(value)}; {advice}")


def _tensors(returned: nn.Module | nn.Parameter) -> list[Tensor]:
    if isinstance(returned, nn.Module):
        return [tensor for _, tensor in named_tensors(returned)]
    return [returned]
