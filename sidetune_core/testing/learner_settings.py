"""Checks of learners in other settings: precision, devices, shapes of encodings, kinds of task."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import attrs
import torch

from sidetune_core.errors import FitError
from sidetune_core.interfaces.inputs import Shape
from sidetune_core.interfaces.learner import Learner, has_former_penalty
from sidetune_core.interfaces.tasks import Batch, Order, Task
from sidetune_core.interfaces.training import PhaseSteps, Trainable, TrainingStep, members
from sidetune_core.seeding import seeded
from sidetune_core.system.device import Machine
from sidetune_core.testing import sample
from sidetune_core.testing.device import PretendedGpu, half_precision
from sidetune_core.testing.findings import SEED, Broken, Skipped, described, requires
from sidetune_core.testing.stream import network
from sidetune_core.testing.subject import OPTIONS, MakeTasks, Subject, outputs
from sidetune_core.training.trainable import freeze

BF16 = Machine(torch.device("cpu"), bf16=True, channels_last=True)
ONE_STEP = attrs.evolve(OPTIONS, steps=1)


@requires("trains_on_two_tasks")
def runs_in_bfloat16(subject: Subject) -> None:
    """Training works in bfloat16 with images in channels-last memory format."""
    _trains(
        attrs.evolve(subject, machine=BF16, options=ONE_STEP),
        "in half precision and channels-last format (--device.precision bf16)",
        "convert with .to(x.dtype) or .float() where types differ",
    )


@requires("trains_on_two_tasks")
def encodings_of_maps_are_accepted_or_refused(subject: Subject) -> None:
    """Encodings (C, H, W) are trained on, or refused with a `FitError`."""
    _with_encodings(subject, (8, 4, 4), "(C, H, W)")


@requires("trains_on_two_tasks")
def encodings_of_sequences_are_accepted_or_refused(subject: Subject) -> None:
    """Encodings (L, C) are trained on, or refused with a `FitError`."""
    _with_encodings(subject, (5, 8), "(L, C)")


def _with_encodings(subject: Subject, shape: Shape, name: str) -> None:
    if not subject.is_own:
        raise Skipped("the base is given")
    other = attrs.evolve(subject.of_shape(shape), options=ONE_STEP)
    _trains(other, f"on encodings {name}", "compute with base.shape, or raise FitError in __init__()")


@requires("outputs_depend_on_the_given_task")
def other_numbers_of_classes_are_accepted_or_refused(subject: Subject) -> None:
    """Tasks of three classes and of one more are trained on, or refused with a `FitError`."""
    _with_tasks(subject, sample.tasks_of_classes, "tasks of 3 and of 5 classes")


@requires("outputs_depend_on_the_given_task")
def regression_is_accepted_or_refused(subject: Subject) -> None:
    """Regression tasks are trained on, or refused with a `FitError`."""
    _with_tasks(subject, sample.regression_tasks, "regression tasks")


@requires("outputs_depend_on_the_given_task")
def labels_are_accepted_or_refused(subject: Subject) -> None:
    """Tasks of several independent labels are trained on, or refused with a `FitError`."""
    _with_tasks(subject, sample.label_tasks, "tasks of several labels")


def _with_tasks(subject: Subject, tasks: MakeTasks, name: str) -> None:
    if not subject.is_own:
        raise Skipped("the tasks are given")
    _trains(
        attrs.evolve(subject, tasks=tasks, options=ONE_STEP),
        f"on {name}",
        "use task.loss() and task.outputs, or raise FitError in start()",
    )


def _trains(subject: Subject, where: str, remedy: str) -> None:
    """Training works in a setting, or the setting is refused."""
    try:
        learner = subject()
        if subject.machine.bf16:
            with half_precision(autocast=False):
                subject.train_unrecorded(learner)
        else:
            subject.train_unrecorded(learner)
        found = outputs(learner, subject)
    except FitError:
        raise
    except Broken as error:
        raise Broken(f"fails {where}: {error}") from error
    except Exception as error:  # plugins may raise anything
        raise Broken(f"fails {where}: {described(error)}; {remedy}") from error
    for task, output in zip(subject.tasks(), found, strict=True):
        if not output.isfinite().all():
            raise Broken(f"outputs are infinite or NaN {where}; {remedy}")
        batch = next(task.train(network(task), Order(SEED, subject.options.batch_size)))
        expected = tuple(network(task)(batch.inputs).shape)
        if tuple(output.shape) != expected:
            raise Broken(f"outputs have shape {tuple(output.shape)} {where}, not {expected}; {remedy}")


@requires("trains_on_two_tasks", "checkpoint_holds_all_state")
def tensors_follow_the_device(subject: Subject) -> None:
    """With weights and batches on a GPU (pretended) every tensor of a task's moments is there."""
    learner = subject()
    with PretendedGpu() as gpu:
        gpu.place(learner)
        try:
            for task in subject.tasks():
                _one_step(learner, task, gpu, subject)
        except (Broken, FitError):
            raise
        except Exception as error:  # other checks report what a plugin raises
            raise Skipped(f"cannot be observed: {described(error)}") from error


def _one_step(learner: Learner, task: Task, gpu: PretendedGpu, subject: Subject) -> None:
    """All moments of a task, with a single step in each phase."""

    def release(trainable: Trainable) -> None:
        gpu.place(learner)
        freeze(learner)
        for item in members(trainable):
            item.requires_grad_(True)
            if isinstance(item, torch.nn.Module):
                item.train()

    with seeded(SEED, "start", task.id):
        release(learner.start(task))
    made = next(task.train(network(task), Order(SEED, subject.options.batch_size)))
    batch = Batch(made.ids, gpu.move_inputs(made.inputs), gpu.copy(made.targets))
    with seeded(SEED, "train", task.id):
        for number, phase in enumerate(learner.phases(task)):
            step = TrainingStep(number, number + 1, 0, PhaseSteps(phase, number, number + 1), len(batch.ids))
            if number and (trainable := learner.start_phase(task, phase)) is not None:
                release(trainable)
            losses = [*learner.losses(batch, task, step).values()]
            losses += learner.penalty(batch).values() if has_former_penalty(learner) else ()
            total = sum(losses)
            if isinstance(total, torch.Tensor) and total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
            learner.after_backward(task, step)
            with torch.no_grad():
                for parameter in learner.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(0.01 * parameter.grad)
                        parameter.grad = None
            learner.after_step(task, step)
        freeze(learner)
        learner.finish(task, _copies(batch))
    with torch.no_grad():
        learner.predict(batch.inputs, task.id)


def _copies(batch: Batch) -> Iterator[Batch]:
    return repeat(batch, 10_000)


CHECKS = (
    runs_in_bfloat16,
    encodings_of_maps_are_accepted_or_refused,
    encodings_of_sequences_are_accepted_or_refused,
    other_numbers_of_classes_are_accepted_or_refused,
    regression_is_accepted_or_refused,
    labels_are_accepted_or_refused,
    tensors_follow_the_device,
)
