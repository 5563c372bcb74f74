"""Faults of learners are named, by the check that finds them, and unusual methods have none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    BufferDict,
    Components,
    FitError,
    Heads,
    Learner,
    ParamGroup,
    Phase,
    Task,
    Trainable,
    TrainingStep,
)
from sidetune_core.testing.learner import check_learner


@attrs.frozen
class Config:
    """No options."""


class Sound(Learner):
    """A linear layer that all tasks share, on the base's encoding."""

    Config = Config

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.net = nn.Linear(self.base.shape[-1], self.base.shape[-1])
        self.heads = Heads(self.base.shape)
        self.prepare()

    def prepare(self) -> None:
        """For faults."""

    def start(self, task: Task) -> Trainable:
        return [self.net, self.heads.add_task(task)]

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        encoding: Tensor = self.net(self.base(inputs).encoding)
        return encoding

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.encode(inputs, task_id), task_id)


class NearestMean(Learner):
    """Nearest class mean, without gradients; it answers for unknown tasks too."""

    Config = Config

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base, self.means = components.base(), nn.ModuleDict()
        self._sizes: dict[str, int] = {}

    def start(self, task: Task) -> Trainable:
        if task.outputs.kind != "logits" or task.outputs.size is None:
            raise FitError("classes only")
        self._sizes[task.id] = task.outputs.size
        self.means[task.id] = BufferDict()
        return [self.means[task.id]]

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        return {}

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        means, encoding = self.means[task_id], self.base(inputs).encoding.flatten(1).float()
        if "means" not in means:  # type: ignore[operator]
            return encoding.new_zeros(len(encoding), self._sizes[task_id])
        return -torch.cdist(encoding, means["means"])  # type: ignore[index]

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        batch = next(batches)
        encoding = self.base(batch.inputs).encoding.flatten(1).float()
        hits = functional.one_hot(batch.targets, self._sizes[task.id]).float()
        self.means[task.id]["means"] = hits.T @ encoding / hits.sum(0)[:, None].clamp(min=1)  # type: ignore[operator]

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        return torch.cat([self(inputs, one) for one in ([*self.means] if task_id is None else [task_id])], 1)


class Phased(Sound):
    """Trains in two phases with groups, and masks weights after each step."""

    def prepare(self) -> None:
        self.register_buffer("mask", torch.ones_like(self.net.weight))

    def start(self, task: Task) -> Trainable:
        return [ParamGroup([self.net], lr_scale=0.5), self.heads.add_task(task)]

    def phases(self, task: Task) -> Sequence[Phase]:
        return (Phase("train", 0.5), Phase("retrain", 0.5))

    def start_phase(self, task: Task, phase: Phase) -> Trainable | None:
        self.mask = (self.net.weight.abs() > 0.01).float()
        return [self.heads[task.id]]

    def after_step(self, task: Task, step: TrainingStep) -> None:
        with torch.no_grad():
            self.net.weight.mul_(self.mask)


class Hooked(Sound):
    """Scales a layer of the base by hooks."""

    def prepare(self) -> None:
        self.scales, self._current = nn.ParameterDict(), ""
        layer = next(module for module in self.base.modules() if isinstance(module, nn.Conv2d))
        layer.register_forward_hook(self._scale)

    def _scale(self, module: nn.Module, given: object, output: Tensor) -> Tensor:
        return output * self.scales[self._current] if self._current else output

    def start(self, task: Task) -> Trainable:
        self.scales[task.id] = nn.Parameter(torch.ones(()))
        return [self.scales[task.id], *super().start(task)]

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        self._current = task_id
        try:
            return super().encode(dict(inputs), task_id)
        finally:
            self._current = ""


class HandingOn(Hooked):
    """Gives the base inputs with ids, which the feature cache would find, if it served a base with hooks."""

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        self._current = task_id
        try:
            return Sound.encode(self, inputs, task_id)
        finally:
            self._current = ""


class Replaced(Hooked):
    """Scales a layer of the base by a class of its own, before the core has seen the base; its features are
    found in the cache, so that they have the scale of the task and the step that computed them."""

    def prepare(self) -> None:
        self.scales, self._current = nn.ParameterDict(), ""
        layer = next(module for module in self.base.modules() if isinstance(module, nn.Conv2d))
        learner = self

        class Scaled(nn.Conv2d):
            def forward(self, x: Tensor) -> Tensor:
                return learner._scale(self, x, super().forward(x))

        layer.__class__ = Scaled

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.scales[task_id] * HandingOn.encode(self, inputs, task_id)  # type: ignore[arg-type]


class Flagged(Sound):
    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return functional.dropout(super().encode(inputs, task_id), 0.5, self.training)


class Current(Sound):
    def start(self, task: Task) -> Trainable:
        self.current = task.id
        return super().start(task)

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return super().forward(inputs, self.current)


class InPlace(Sound):
    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        inputs["image"].mul_(0.9)
        return super().encode(inputs, task_id)


class Averaging(Sound):
    def prepare(self) -> None:
        self.register_buffer("mean", torch.zeros(()))

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        self.mean.lerp_(batch.inputs["image"].float().mean(), 0.1)
        return super().losses(batch, task, step)


class Mixed(Sound):
    def prepare(self) -> None:
        self.register_buffer("store", torch.zeros(8, *self.base.shape))

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        encoding, store = super().encode(inputs, task_id), self.store.clone()
        store[: len(encoding)] = store[: len(encoding)].index_put(
            (torch.arange(min(8, len(encoding))),), encoding.detach()[:8]
        )
        return encoding


class Keeping(Sound):
    def prepare(self) -> None:
        self.kept: list[Tensor] = []

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        losses = super().losses(batch, task, step)
        self.kept.append(losses["loss"].detach())
        return losses


class Twice(Sound):
    def prepare(self) -> None:
        self.alias = self.net


class Squeezing(Sound):
    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return super().forward(inputs, task_id).squeeze()


class Optimising(Sound):
    def prepare(self) -> None:
        self.adam = torch.optim.Adam(self.net.parameters())


class Classes(Sound):
    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        if task.outputs.is_binary:
            return super().losses(batch, task, step)
        return {"loss": functional.cross_entropy(self(batch.inputs, task.id), batch.targets.long())}


class OneLabel(Sound):
    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        if task.outputs.is_regression:
            return super().losses(batch, task, step)
        return {"loss": functional.nll_loss(self(batch.inputs, task.id).log_softmax(1), batch.targets)}


class Recording(Sound):
    def record(self) -> dict[str, float]:
        return {"nothing": float("nan")}


class Double(Sound):
    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return super().forward(inputs, task_id).double()


class Draining(Sound):
    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        for _ in batches:
            pass


class Graphs(Sound):
    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        with torch.enable_grad():
            return super().forward(inputs, task_id)


class Idle(Sound):
    def prepare(self) -> None:
        self.unused = nn.Linear(2, 2)

    def start(self, task: Task) -> Trainable:
        return [self.unused, *super().start(task)]


class Vectors(Sound):
    def prepare(self) -> None:
        self.scale = nn.Parameter(torch.ones(64))

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return super().encode(inputs, task_id) * self.scale


class OnCpu(Sound):
    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        encoding = super().encode(inputs, task_id)
        return encoding + torch.zeros(encoding.shape)


class Resized(Sound):
    width = 2

    def start(self, task: Task) -> Trainable:
        self.extra = nn.Parameter(torch.zeros(self.width))
        return [self.extra, *super().start(task)]

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return super().encode(inputs, task_id) + self.extra.sum()

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        self.width = 3


class Locked(Sound):
    def prepare(self) -> None:
        self.numbers = iter(range(3))
        self.generator = (number for number in self.numbers)


class Claiming(Sound):
    independent_tasks = True


class Hidden(Sound):
    def prepare(self) -> None:
        self.register_buffer("count", torch.zeros(()))

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        self.count.data.add_(1)


FAULTS: Mapping[type[Learner], tuple[str, str]] = {
    Replaced: ("cached_features_are_the_same", "pass it dict(inputs), without ids"),
    Flagged: ("training_flag_of_the_learner_is_not_read", "reads self.training"),
    Current: ("outputs_depend_on_the_given_task", "not by an attribute that start() sets"),
    InPlace: ("losses_change_no_inputs", "changes image in place"),
    Averaging: ("trains_only_what_start_returned", "mean changed in training"),
    Mixed: ("runs_in_bfloat16", "--device.precision bf16"),
    Keeping: ("memory_does_not_grow", "kept keeps more tensors"),
    Twice: ("modules_are_registered_once", "net and alias"),
    Squeezing: ("examples_are_independent", "do not squeeze"),
    Optimising: ("core_has_the_optimizer", "adam is an optimiser"),
    Classes: ("regression_is_accepted_or_refused", "use task.loss()"),
    OneLabel: ("labels_are_accepted_or_refused", "on tasks of several labels"),
    Recording: ("trains_on_two_tasks", "record() returns 'nothing' nan"),
    Double: ("outputs_are_float32", "in float64"),
    Draining: ("trains_on_two_tasks", "finish() takes more than 256 batches"),
    Graphs: ("evaluation_builds_no_graph", "do not turn gradients on"),
    Idle: ("gradients_reach_all_that_start_returned", "no gradient reaches unused"),
    OnCpu: ("tensors_follow_the_device", "is on the CPU"),
    Resized: ("checkpoint_holds_all_state", "does not fit the state dict: size mismatch for extra"),
    Locked: ("learner_can_be_copied", "cannot pickle 'generator' object"),
    Hidden: ("writes_to_tensors_are_recorded", "count are written to through .data"),
    Claiming: ("independent_tasks_are_independent", "training the last task changes net.weight, net.bias"),
}


def failures(cls: type[Any]) -> dict[str, str]:
    """Messages of the checks that fail."""
    return {finding.check: finding.message for finding in check_learner(cls, Config()) if not finding.passed}


@pytest.mark.parametrize("cls", [Sound, NearestMean, Phased, Hooked, HandingOn])
def test_sound_learners_have_no_fault(cls: type[Learner]) -> None:
    assert failures(cls) == {}


@pytest.mark.parametrize("cls", FAULTS, ids=lambda cls: cls.__name__.lower())
def test_a_fault_of_a_learner_is_the_only_finding(cls: type[Learner]) -> None:
    check, part = FAULTS[cls]
    failed = failures(cls)
    assert failed.keys() == {check}
    assert part in failed[check]


def test_a_learner_of_vectors_fails_on_maps_and_sequences_only() -> None:
    assert failures(Vectors).keys() == {
        "encodings_of_maps_are_accepted_or_refused",
        "encodings_of_sequences_are_accepted_or_refused",
    }
