"""Checks of learners: outputs in evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sidetune_core.assembly.predict import make_predict
from sidetune_core.certificate.verdicts import OUTSIDE
from sidetune_core.errors import FitError
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import Base, taps_read
from sidetune_core.seeding import seeded
from sidetune_core.testing.advice import DRAWS_IN_EVAL
from sidetune_core.testing.findings import SEED, Broken, Skipped, described, requires
from sidetune_core.testing.state import changed, equal, named_tensors, random_state, snapshot
from sidetune_core.testing.stream import network
from sidetune_core.testing.subject import Subject, first_inputs, outputs
from sidetune_core.training.trainable import freeze

LARGE_BATCH = 256
"""Examples of a batch as large as those of evaluation."""


@requires("trains_on_two_tasks")
def outputs_have_the_shape_of_the_head(subject: Subject) -> None:
    """The output for eight examples of a task of two classes has shape (8, 2)."""
    learner = subject.trained.learner
    for task, output in zip(subject.tasks(), outputs(learner, subject), strict=True):
        inputs = first_inputs(task, subject.options.batch_size)
        expected = tuple(network(task)(inputs).shape)
        if tuple(output.shape) != expected:
            raise Broken(
                f"the output for {expected[0]} examples of task '{task.id}' has shape {tuple(output.shape)}; "
                f"return the output of the task's head, {expected}"
            )


@requires("trains_on_two_tasks")
def outputs_are_float32(subject: Subject) -> None:
    """Outputs are in float32; in half precision the core uses autocast."""
    learner = subject.trained.learner
    for task in subject.tasks():
        with torch.no_grad():
            output = learner.predict(first_inputs(task, subject.options.batch_size), task.id)
        if output.dtype != torch.float32:
            name = str(output.dtype).removeprefix("torch.")
            raise Broken(f"outputs are in {name}; return float32: the core chooses another precision")


@requires("trains_on_two_tasks")
def evaluation_draws_no_random_numbers(subject: Subject) -> None:
    """A forward pass in eval mode does not change the global random states."""
    learner = subject.trained.learner
    before = random_state()
    outputs(learner, subject)
    if random_state() != before:
        raise Broken(DRAWS_IN_EVAL)


@requires("trains_on_two_tasks")
def evaluation_changes_nothing(subject: Subject) -> None:
    """A forward pass in eval mode changes no parameter, buffer or input."""
    learner = subject.trained.learner
    before = snapshot(learner)
    outputs(learner, subject)
    if names := changed(before, snapshot(learner)):
        raise Broken(
            f"a forward pass in eval mode changes {', '.join(names)}; "
            "change state in losses() or after_step(), or in finish()"
        )


@requires("losses_change_no_inputs", "evaluation_changes_nothing")
def evaluation_changes_no_inputs(subject: Subject) -> None:
    """A forward pass in eval mode changes no input in place."""
    learner = subject.trained.learner
    for task in subject.tasks():
        inputs = first_inputs(task, subject.options.batch_size)
        before = {name: value.clone() for name, value in inputs.items()}
        make_predict(learner, task, subject.machine)(inputs)
        if names := [name for name, value in inputs.items() if not torch.equal(value, before[name])]:
            raise Broken(f"predict() changes {', '.join(names)} in place; make a new tensor")


@requires("trains_on_two_tasks")
def evaluation_builds_no_graph(subject: Subject) -> None:
    """Outputs have no gradient where PyTorch's gradient mode is off, as in evaluation and rollouts."""
    learner = subject.trained.learner
    learner.requires_grad_(True)
    try:
        for task in subject.tasks():
            with torch.no_grad():
                output = learner.predict(first_inputs(task, subject.options.batch_size), task.id)
            if output.requires_grad:
                raise Broken(
                    "a forward pass in evaluation builds a graph of gradients; do not turn gradients on in "
                    "forward() (torch.enable_grad, set_grad_enabled): the core turns them on in training"
                )
    finally:
        freeze(learner)


@requires("evaluation_draws_no_random_numbers", "evaluation_changes_nothing")
def outputs_are_reproducible(subject: Subject) -> None:
    """In evaluation, the same examples have the same outputs once more, bit for bit, under any seed."""
    learner = subject.trained.learner
    with seeded(SEED, "evaluation"):
        first = outputs(learner, subject)
    with seeded(SEED + 1, "evaluation"):
        again = outputs(learner, subject)
    if not equal(first, again):
        raise Broken(
            f"the same examples have other outputs when they are evaluated once more: {OUTSIDE}; "
            "certificates then claim nothing"
        )


@requires(
    "outputs_have_the_shape_of_the_head", "evaluation_draws_no_random_numbers", "outputs_are_reproducible"
)
def examples_are_independent(subject: Subject) -> None:
    """In evaluation, the output for an example depends on it only, not on the batch's size or order, and a
    batch may have a single one."""
    learner = subject.trained.learner
    for task in subject.tasks():
        predict = make_predict(learner, task, subject.machine)
        several, inputs = predict(first_inputs(task, subject.options.batch_size)), first_inputs(task, 8, 1)
        try:
            alone = predict(inputs)
        except Exception as error:  # plugins may raise anything
            raise Broken(f"evaluation of a single example fails: {described(error)}") from error
        if inputs.lengths is None and alone.shape != several[:1].shape:
            raise Broken(
                f"the output for a single example has shape {tuple(alone.shape)}, not "
                f"{tuple(several[:1].shape)}; do not squeeze the batch axis"
            )
        shared = several[:1, : alone.shape[1]]
        if not torch.allclose(alone, shared, rtol=1e-3, atol=1e-3):
            raise Broken(
                "in evaluation the output for an example depends on the others in its batch; "
                "use running statistics in eval mode"
            )
        for arrangement, index in _arrangements(len(several)).items():
            rearranged = predict(first_inputs(task, subject.options.batch_size).rows(index))
            if not torch.allclose(rearranged, several[index], rtol=1e-3, atol=1e-3):
                raise Broken(
                    f"in evaluation the output for an example depends on {arrangement}; R then depends on "
                    "how it is evaluated, and certificates claim nothing"
                )


def _arrangements(count: int) -> dict[str, Tensor]:
    """Other batches of the same examples, as indices, by what is different."""
    return {
        "its place in the batch": torch.arange(count - 1, -1, -1),
        "the size of its batch": torch.arange(LARGE_BATCH) % count,
    }


@requires("evaluation_draws_no_random_numbers", "evaluation_changes_no_inputs", "outputs_are_reproducible")
def outputs_depend_on_the_given_task(subject: Subject) -> None:
    """The output for a task is the same whichever task was started or evaluated last."""
    trained = subject.trained.learner
    if not equal(outputs(trained, subject), list(reversed(_in_reverse(trained, subject)))):
        raise Broken(
            "outputs for a task depend on which task was evaluated before; "
            "choose by the argument task_id, and keep nothing of it"
        )
    first, *others = subject.tasks()
    if trained.joint or not others:
        return
    learner = subject()
    subject.train(learner, tasks=[first])
    predict, inputs = make_predict(learner, first, subject.machine), first_inputs(first, 8)
    before, output = snapshot(learner), predict(inputs)
    with seeded(SEED, "start", others[0].id):
        learner.start(others[0])
    freeze(learner)
    after = snapshot(learner)
    same_tensors = all(after.get(name) == digest for name, digest in before.items())
    if same_tensors and not torch.equal(predict(inputs), output):
        raise Broken(
            f"start() of task '{others[0].id}' changes the outputs for task '{first.id}', and no tensor of "
            "it; choose by forward()'s argument task_id, not by an attribute that start() sets"
        )


def _in_reverse(learner: Learner, subject: Subject) -> list[Tensor]:
    return [
        make_predict(learner, task, subject.machine)(first_inputs(task, subject.options.batch_size))
        for task in reversed(subject.tasks())
    ]


@requires("trains_on_two_tasks", "evaluation_draws_no_random_numbers", "outputs_are_reproducible")
def cached_features_are_the_same(subject: Subject) -> None:
    """Outputs are the same with features of the base from the feature cache, which finds them by ids; also
    with those from before other tensors of the learner have changed."""
    learner = subject.trained.learner
    cache = FeatureCache(limit=2**26, taps=taps_read(learner), info=lambda _: None)
    expected = outputs(learner, subject)
    cache.attach(learner, subject.machine.arithmetic)
    try:
        for _ in range(2):
            _check_cached(learner, subject, expected, "")
        with _other_values(learner):
            _check_cached(
                learner,
                subject,
                outputs(learner, subject),
                " that were computed before other tensors changed",
            )
    finally:
        FeatureCache.detach(learner)


def _check_cached(learner: Learner, subject: Subject, expected: Sequence[Tensor], which: str) -> None:
    """Check the outputs with the features that the cache has."""
    for task, output in zip(subject.tasks(), expected, strict=True):
        inputs = first_inputs(task, subject.options.batch_size, ids=True)
        cached = make_predict(learner, task, subject.machine)(inputs)
        if not torch.allclose(cached, output, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise Broken(
                f"outputs for task '{task.id}' differ with features of the base from the feature "
                f"cache{which}; where the learner changes the base's computation, pass it dict(inputs), "
                "without ids"
            )


@contextmanager
def _other_values(learner: Learner) -> Iterator[None]:
    """Larger values of all float tensors but those of bases with cached features, for a block."""
    bases = [base for base in learner.modules() if isinstance(base, Base) and base.cache is not None]
    kept = {id(tensor) for base in bases for _, tensor in named_tensors(base)}
    tensors = [
        tensor
        for _, tensor in named_tensors(learner)
        if tensor.is_floating_point() and id(tensor) not in kept
    ]
    with torch.no_grad():
        before = [tensor.clone() for tensor in tensors]
        for tensor in tensors:
            tensor.mul_(1.25)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


@requires("outputs_have_the_shape_of_the_head")
def unknown_tasks_are_answered_or_refused(subject: Subject) -> None:
    """`predict` for an unknown task returns logits of the classes of all tasks, or raises `FitError`."""
    learner, tasks = subject.trained.learner, subject.tasks()
    inputs = first_inputs(tasks[0], subject.options.batch_size)
    wide = sum(output.shape[1] for output in outputs(learner, subject))
    try:
        output = make_predict(learner, None, subject.machine)(inputs)
    except FitError as error:
        raise Skipped(str(error)) from error
    if output.shape[1] != wide:
        raise Broken(
            f"predict() without a task has outputs {tuple(output.shape)}; return the logits of the classes "
            f"of all {len(tasks)} tasks, {(len(output), wide)}, or raise FitError"
        )


CHECKS = (
    outputs_have_the_shape_of_the_head,
    outputs_are_float32,
    evaluation_draws_no_random_numbers,
    evaluation_changes_nothing,
    evaluation_changes_no_inputs,
    evaluation_builds_no_graph,
    outputs_are_reproducible,
    examples_are_independent,
    outputs_depend_on_the_given_task,
    cached_features_are_the_same,
    unknown_tasks_are_answered_or_refused,
)
