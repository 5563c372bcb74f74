"""Checks of learners: what they are made of, and that a checkpoint holds all of it."""

from __future__ import annotations

import copy
import tempfile
from contextlib import suppress
from pathlib import Path

from sidetune_core.interfaces.training import members
from sidetune_core.seeding import seeded
from sidetune_core.storage.atomic import not_synced
from sidetune_core.system.signals import StopRequested
from sidetune_core.testing import attributes
from sidetune_core.testing.findings import SEED, Broken, described, requires
from sidetune_core.testing.state import changed, equal, snapshot
from sidetune_core.testing.subject import Subject, outputs


def learner_can_be_copied(subject: Subject) -> None:
    """The core copies a learner, to evaluate it before training."""
    try:
        copy.deepcopy(subject())
    except Exception as error:  # plugins may raise anything
        raise Broken(
            f"copy.deepcopy() of the learner {described(error)}; the core evaluates a copy before training: "
            "make locks, files and generators when they are needed, or define __deepcopy__"
        ) from error


def start_returns_its_own_modules(subject: Subject) -> None:
    """`start` returns modules and parameters of the learner itself."""
    learner = subject()
    for task in subject.tasks():
        with seeded(SEED, "start", task.id):
            trainable = learner.start(task)
        own = {id(member) for member in (*learner.modules(), *learner.parameters())}
        for returned in members(trainable):
            if id(returned) not in own:
                raise Broken(
                    f"start() returns a {type(returned).__name__} that is not part of the learner; "
                    "assign it to an attribute of self first"
                )


@requires("start_returns_its_own_modules")
def modules_are_registered_once(subject: Subject) -> None:
    """No module with weights has two names: its state would be saved and compared twice."""
    learner = subject()
    subject.start_all(learner)
    if twice := attributes.registered_twice(learner):
        raise Broken(f"{twice[0]} are one module with two names; keep it in one attribute")


@requires("trains_on_two_tasks")
def core_has_the_optimizer(subject: Subject) -> None:
    """No attribute holds an optimiser: checkpoints would lack its state, and the schedule its steps."""
    learner = subject.trained.learner
    if names := attributes.optimizers(learner):
        raise Broken(
            f"{names[0]} is an optimiser of its own, whose state no checkpoint has; return from start() what "
            "to train, with ParamGroup for another learning rate, and let the core step"
        )


@requires(
    "trains_on_two_tasks",
    "trains_only_what_start_returned",
    "evaluation_draws_no_random_numbers",
    "outputs_are_reproducible",
)
def checkpoint_holds_all_state(subject: Subject) -> None:
    """A new learner with the same tasks started and the state dict loaded has the same outputs."""
    first, second = subject.trained.learner, subject(SEED + 1)
    subject.start_all(second, SEED + 1)
    try:
        second.load_state_dict(first.state_dict())
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise Broken(
            f"a new learner with the same tasks started does not fit the state dict: {reason}; __init__() "
            "and start() must make the same modules again, whatever finish() has set"
        ) from error
    second.eval()
    if not equal(outputs(first, subject), outputs(second, subject)):
        hidden = "; ".join(attributes.unregistered(first))
        raise Broken(
            "a new learner with the same tasks and state dict has other outputs; "
            + (hidden or "keep all state in parameters and buffers")
        )


@requires("checkpoint_holds_all_state", "one_seed_gives_one_result", "core_has_the_optimizer")
def resumes_exactly_between_tasks(subject: Subject) -> None:
    """A run resumed after its first task ends with the same weights as an uninterrupted run, bit for bit."""
    uninterrupted, resumed = subject.trained.learner, subject()
    if uninterrupted.joint:
        return  # its tasks have no boundary
    with tempfile.TemporaryDirectory() as folder, not_synced():
        subject.train(subject(), Path(folder) / "run", subject.tasks()[:1])
        subject.train(resumed, Path(folder) / "run")
    if names := changed(snapshot(uninterrupted), snapshot(resumed)):
        raise Broken(
            f"{', '.join(names)} differ after resuming between the two tasks; "
            "keep in buffers what finish() estimates"
        )


@requires("resumes_exactly_between_tasks")
def resumes_exactly_within_a_task(subject: Subject) -> None:
    """A run resumed within a task ends with the same weights as an uninterrupted run, bit for bit."""
    uninterrupted, resumed = subject.trained.learner, subject()
    with tempfile.TemporaryDirectory() as folder, not_synced():
        with suppress(StopRequested):
            subject.train(subject(), Path(folder) / "run", last_step=subject.options.steps + 2)
        subject.train(resumed, Path(folder) / "run")
    if names := changed(snapshot(uninterrupted), snapshot(resumed)):
        raise Broken(
            f"{', '.join(names)} differ after resuming within a task; "
            "keep all state in buffers, or define get_extra_state()"
        )


FIRST = (learner_can_be_copied, start_returns_its_own_modules, modules_are_registered_once)
CHECKS = (
    core_has_the_optimizer,
    checkpoint_holds_all_state,
    resumes_exactly_between_tasks,
    resumes_exactly_within_a_task,
)
