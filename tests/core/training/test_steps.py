"""The moments of a step, phases, and learners without gradients."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Batch,
    BufferDict,
    Order,
    ParamGroup,
    Phase,
    PluginError,
    Predict,
    Task,
    Trainable,
    TrainingStep,
    mean_loss,
)
from sidetune_core.system.signals import StopRequest, StopRequested
from sidetune_core.testing import sample
from sidetune_core.testing.state import changed, snapshot

from .conftest import Plain, Training


class Noting(Plain):
    """Notes what happens."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.notes: list[Any] = []


def test_a_batch_larger_than_the_training_set_is_the_training_set(training: Training) -> None:
    tasks = sample.tasks()
    size = tasks[0].training_size()
    large, exact = training.make(Plain), training.make(Plain)
    training.learn(large, "large", tasks, batch_size=2**24)
    training.learn(exact, "exact", tasks, batch_size=size)
    assert not changed(snapshot(large), snapshot(exact))
    log = (training.path / "large" / "log.txt").read_text()
    assert f"task {tasks[0].id} has {size} training examples; its batches have {size} of them" in log


def test_a_stop_is_noticed_between_the_micro_batches_of_a_step(training: Training) -> None:
    class Learner(Plain):
        def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
            raise AssertionError("a step was taken")

    made = 0
    stop = StopRequest()
    tasks = sample.tasks()
    train = tasks[0].train

    def batches(predict: Predict, order: Order) -> Iterator[Batch]:
        nonlocal made
        for batch in train(predict, order):
            made += 1
            if made == 3:
                stop.number = signal.SIGTERM
            yield batch

    tasks[0].train = batches  # type: ignore[method-assign]
    with pytest.raises(StopRequested):
        training.learn(training.make(Learner), tasks=tasks, stop=stop, accumulate=10**6)
    assert made == 3


def test_the_gradient_is_complete_and_not_yet_clipped_after_backward(training: Training) -> None:
    class Learner(Noting):
        def after_backward(self, task: Task, step: TrainingStep) -> None:
            assert self.layer.weight.grad is not None
            self.notes.append(self.layer.weight.grad.clone())

    learner = training.make(Learner)
    task = sample.tasks()[0]
    training.learn(learner, tasks=[task], steps=1, batch_size=4, accumulate=2, grad_clip=1e-6)
    plain = training.make(Plain)
    plain.heads.add_task(task)
    plain.heads.load_state_dict(learner.heads.state_dict())
    batch = next(task.train(lambda inputs: torch.empty(0), Order(0, 8)))
    plain.eval()
    task.loss(plain(batch.inputs, task.id), batch).mean().backward()
    (seen,) = learner.notes
    torch.testing.assert_close(seen, plain.layer.weight.grad, rtol=1e-3, atol=1e-5)


def test_a_changed_gradient_is_what_the_optimiser_uses(training: Training) -> None:
    class Learner(Plain):
        def after_backward(self, task: Task, step: TrainingStep) -> None:
            nn.init.zeros_(self.layer.weight.grad)

    learner, fresh = training.make(Learner), training.make(Plain)
    training.learn(learner)
    assert torch.equal(learner.layer.weight, fresh.layer.weight)
    assert not torch.equal(learner.layer.bias, fresh.layer.bias)


def test_weights_have_moved_after_the_step_and_a_change_stays(training: Training) -> None:
    class Learner(Noting):
        def after_backward(self, task: Task, step: TrainingStep) -> None:
            self._before = self.layer.weight.detach().clone()

        def after_step(self, task: Task, step: TrainingStep) -> None:
            self.notes.append(not torch.equal(self.layer.weight, self._before))
            with torch.no_grad():
                self.layer.weight.copy_(self._before)

    learner, fresh = training.make(Learner), training.make(Plain)
    training.learn(learner, optimizer="adamw", weight_decay=0.5)
    assert learner.notes == [True] * 8
    assert torch.equal(learner.layer.weight, fresh.layer.weight)


def test_a_step_has_its_facts(training: Training) -> None:
    class Learner(Noting):
        def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
            self.notes.append(
                (step.number, step.total, step.epoch, step.batch_size, step.micro_batch, len(batch.targets))
            )
            assert step.is_last_micro_batch == (step.micro_batch == 1)
            assert torch.equal(step.gather(batch.targets), batch.targets)
            assert step.rows == slice(4 * step.micro_batch, 4 * step.micro_batch + 4)
            return super().losses(batch, task, step)

    learner = training.make(Learner)
    training.learn(learner, tasks=sample.tasks()[:1], batch_size=4, accumulate=2)
    size, epoch = 8, 24  # a task has 24 examples
    assert learner.notes == [
        (number, 4, number * size // epoch, size, micro_batch, 4)
        for number in range(4)
        for micro_batch in range(2)
    ]


def test_a_learner_knows_the_length_of_its_stream_before_its_first_task(training: Training) -> None:
    lengths = []

    class Knowing(training.plain):  # type: ignore[name-defined, misc]
        def start(self, task: Task) -> Trainable:
            lengths.append(self.stream_length)
            trainable: Trainable = super().start(task)
            return trainable

    training.learn(training.make(Knowing), steps=1)
    assert set(lengths) == {2}  # also of the learner that is not trained, whose tasks are started


def test_losses_are_summed_and_logged_by_name(training: Training) -> None:
    class Learner(Plain):
        def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
            return {**super().losses(batch, task, step), "decay": self.layer.weight.square().sum()}

    (line,) = training.learn(training.make(Learner), tasks=sample.tasks()[:1], steps=1)
    assert line["mean_loss"] == pytest.approx(line["loss"] + line["decay"], rel=1e-6)


def test_a_loss_with_an_axis_is_refused_by_name(training: Training) -> None:
    class Learner(Plain):
        def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
            return {"each": task.loss(self(batch.inputs, task.id), batch)}

    with pytest.raises(PluginError, match=r"losses\(\) returns 'each' of shape \(8,\)"):
        training.learn(training.make(Learner))


def test_a_former_penalty_is_added_with_a_warning_where_it_is_defined(training: Training) -> None:
    with pytest.warns(DeprecationWarning, match=r"Former.penalty is now Learner.losses") as issued:

        class Former(Plain):
            def penalty(self, batch: Batch) -> dict[str, Tensor]:
                return {"decay": self.layer.weight.square().sum()}

    assert issued[0].filename == __file__
    (line,) = training.learn(training.make(Former), tasks=sample.tasks()[:1], steps=1)
    assert line["mean_loss"] == pytest.approx(line["loss"] + line["decay"], rel=1e-6)


def test_a_penalty_next_to_losses_is_the_learners_own_affair(training: Training) -> None:
    class Learner(Plain):
        def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
            return super().losses(batch, task, step)

        def penalty(self, batch: Batch) -> dict[str, Tensor]:
            raise AssertionError

    training.learn(training.make(Learner), steps=1)


class Gradientless(Plain):
    """Counts examples."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.counts = BufferDict()

    def start(self, task: Task) -> Trainable:
        self.heads.add_task(task)
        self.counts[task.id] = torch.zeros(2, dtype=torch.int64)
        return [self.counts]

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        self.counts[task.id] = self.counts[task.id] + torch.bincount(batch.targets, minlength=2)
        return {}


def test_a_learner_without_gradients_sees_every_batch(training: Training) -> None:
    learner = training.make(Gradientless)
    lines = training.learn(learner, steps=20)
    assert [int(learner.counts[task].sum()) for task in ("t0", "t1")] == [160, 160]
    assert [sorted(line) for line in lines] == [["lr", "step", "task"]] * 2


# Phases


class Phased(Noting):
    """Trains the layer, then clears it and trains the head."""

    def phases(self, task: Task) -> tuple[Phase, ...]:
        return Phase("layer", 0.75), Phase("head", 0.25)

    def start_phase(self, task: Task, phase: Phase) -> Trainable:
        nn.init.constant_(self.layer.bias, 0.5)
        return [self.heads[task.id]]

    def after_step(self, task: Task, step: TrainingStep) -> None:
        trainable = [name for name, weight in self.named_parameters() if weight.requires_grad]
        self.notes.append((step.phase.name, step.phase_number, step.phase_total, "layer.bias" in trainable))


def test_each_phase_has_its_steps_and_trainables(training: Training) -> None:
    learner = training.make(Phased)
    training.learn(learner, tasks=sample.tasks()[:1], schedule="linear")
    expected = [("layer", number, 3, True) for number in range(3)] + [("head", 0, 1, False)]
    assert learner.notes == expected
    assert torch.equal(learner.layer.bias, torch.full((8,), 0.5))


def test_each_phase_has_its_own_schedule(training: Training) -> None:
    lines = training.learn(
        training.make(Phased), tasks=sample.tasks()[:1], steps=80, schedule="linear", warmup=0.0
    )
    assert [line["lr"] for line in lines] == pytest.approx([0.1 * 41 / 60, 0.1 * 21 / 60, 0.1 / 60, 0.005])


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_run_with_phases_resumes_exactly(steps: int, training: Training) -> None:
    whole, stopped, resumed = (training.make(Phased) for _ in range(3))
    training.learn(whole, "whole", optimizer="adam")
    with pytest.raises(StopRequested):
        training.learn(stopped, "cut", stop_after=steps, optimizer="adam")
    training.learn(resumed, "cut", optimizer="adam")
    assert len(stopped.notes) + len(resumed.notes) == 8
    assert not changed(snapshot(whole), snapshot(resumed))


class Idle(Phased):
    """Trains nothing in the second of three phases."""

    def phases(self, task: Task) -> tuple[Phase, ...]:
        return Phase("layer", 0.25), Phase("idle", 0.25), Phase("head", 0.5)

    def start_phase(self, task: Task, phase: Phase) -> Trainable:
        return [] if phase.name == "idle" else [self.heads[task.id]]

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        self.notes.append(batch.ids.tolist())
        return super().losses(batch, task, step)


def test_the_order_of_examples_does_not_depend_on_an_idle_phase(training: Training) -> None:
    idle = training.make(Idle)
    task = sample.tasks()[0]
    training.learn(idle, tasks=[task])
    order = task.train(lambda inputs: torch.empty(0), Order(0, 8))
    first, _, *last = (next(order).ids.tolist() for _ in range(4))
    assert [note for note in idle.notes if isinstance(note, list)] == [first, *last]


def test_a_run_resumes_exactly_after_an_idle_phase(training: Training) -> None:
    whole, stopped, resumed = (training.make(Idle) for _ in range(3))
    training.learn(whole, "whole")
    with pytest.raises(StopRequested):
        training.learn(stopped, "cut", stop_after=2)
    training.learn(resumed, "cut")
    assert not changed(snapshot(whole), snapshot(resumed))


def test_the_end_of_a_phase_has_a_line(training: Training) -> None:
    lines = training.learn(training.make(Phased), tasks=sample.tasks()[:1])
    assert [line["step"] for line in lines] == [3, 4]


@pytest.mark.parametrize(
    "phases", [(), (Phase("a", 0.5), Phase("b", 0.4)), (Phase("a", 0.5), Phase("a", 0.5))]
)
def test_phases_that_do_not_make_a_whole_are_refused(phases: tuple[Phase, ...], training: Training) -> None:
    class Learner(Plain):
        def phases(self, task: Task) -> tuple[Phase, ...]:
            return phases

    with pytest.raises(PluginError, match="phases of different names whose fractions sum to 1"):
        training.learn(training.make(Learner))


def test_joint_training_has_a_single_phase(training: Training) -> None:
    class Learner(Phased):
        joint = True

    with pytest.raises(PluginError, match="joint training has a single one"):
        training.learn(training.make(Learner))


# What is returned


@pytest.mark.parametrize("returned", [None, nn.Linear(1, 1), ["layer"], torch.zeros(1)], ids=type)
def test_start_returns_a_list_of_members(returned: Any, training: Training) -> None:
    class Learner(Plain):
        def start(self, task: Task) -> Trainable:
            self.heads.add_task(task)
            return cast(Trainable, returned)

    with pytest.raises(PluginError, match=r"start\(\) returned a \w+; return a list of modules"):
        training.learn(training.make(Learner))


def test_iterators_of_members_are_trained(training: Training) -> None:
    class Learner(Plain):
        def start(self, task: Task) -> Trainable:
            group = ParamGroup(self.layer.parameters(), lr_scale=0.5)  # type: ignore[arg-type]
            return iter([group, self.heads.add_task(task)])  # type: ignore[return-value]

    learner, fresh = training.make(Learner), training.make(Plain)
    training.learn(learner)
    assert not torch.equal(learner.layer.weight, fresh.layer.weight)


@pytest.mark.parametrize("returned", [None, torch.zeros(())], ids=["none", "tensor"])
def test_losses_have_names(returned: Any, training: Training) -> None:
    class Learner(Plain):
        def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
            return cast(Mapping[str, Tensor], returned)

    with pytest.raises(PluginError, match="return scalars by name"):
        training.learn(training.make(Learner))


def test_a_loss_does_not_take_the_name_of_a_fact(training: Training) -> None:
    class Learner(Plain):
        def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
            return {"lr": mean_loss(task, self(batch.inputs, task.id), batch)}

    with pytest.raises(PluginError, match="is called 'lr'"):
        training.learn(training.make(Learner), steps=1)


# Parameter groups


def test_joint_training_may_return_a_group_for_each_task(training: Training) -> None:
    class Learner(Plain):
        joint = True

        def start(self, task: Task) -> Trainable:
            return [self.heads.add_task(task), ParamGroup([self.layer], lr_scale=0.5)]

    training.learn(training.make(Learner))


def test_two_groups_with_other_settings_are_refused(training: Training) -> None:
    class Learner(Plain):
        def start(self, task: Task) -> Trainable:
            self.heads.add_task(task)
            return [ParamGroup([self.layer], lr_scale=scale) for scale in (1.0, 0.5)]

    with pytest.raises(PluginError, match="in two ParamGroups with other settings"):
        training.learn(training.make(Learner))


def test_a_group_has_its_own_rate_and_decay(training: Training) -> None:
    class Learner(Plain):
        def start(self, task: Task) -> Trainable:
            return [
                self.heads.add_task(task),
                ParamGroup([self.layer.bias], lr_scale=0.0),
                ParamGroup([self.layer.weight], weight_decay=0.0),
            ]

        def after_backward(self, task: Task, step: TrainingStep) -> None:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()

    learner, fresh = training.make(Learner), training.make(Plain)
    training.learn(learner, weight_decay=0.5)
    assert torch.equal(learner.layer.bias, fresh.layer.bias)
    assert torch.equal(learner.layer.weight, fresh.layer.weight)


@pytest.mark.parametrize(
    ("recorded", "problem"),
    [
        (None, "None; it is to return numbers by name"),
        ({"scale": "big"}, "as 'scale', an object of type str"),
    ],
    ids=["None", "text"],
)
def test_what_a_learner_records_is_checked(training: Training, recorded: Any, problem: str) -> None:
    class Learner(Plain):
        def record(self) -> dict[str, float]:
            return cast("dict[str, float]", recorded)

    with pytest.raises(PluginError, match=rf"Learner\.record\(\) has returned,? {problem}"):
        training.learn(training.make(Learner))


def test_what_a_task_records_is_checked(training: Training) -> None:
    task = sample.tasks()[0]
    task.record = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match=rf"record\(\) of task '{task.id}' has returned None"):
        training.learn(training.make(Plain), tasks=[task])
