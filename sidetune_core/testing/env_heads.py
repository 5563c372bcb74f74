"""Checks of envs: heads, labels and losses."""

from __future__ import annotations

import torch
from torch import Tensor

from sidetune_core.errors import FitError
from sidetune_core.interfaces.tasks import Batch, Task
from sidetune_core.seeding import seeded
from sidetune_core.testing.findings import SEED, Broken, Make, described, requires
from sidetune_core.testing.stream import (
    BATCH,
    ID_STEPS,
    Stream,
    batches,
    copied,
    encodings,
    epoch_steps,
    equal_batches,
    network,
    shapes,
    some,
)


@requires("batches_are_complete", "inputs_are_finite")
def heads_fit_or_refuse(make: Make[Stream]) -> None:
    """`make_head` makes a layer for encodings (C,), (L, C) and (C, H, W), or raises `FitError`."""
    for task in make().tasks:
        batch = next(batches(task))
        for shape in shapes(task):
            if batch.inputs.lengths is not None and len(shape) != 2:
                continue
            try:
                with seeded(SEED, "head", task.id):
                    task.make_head(shape).eval()(encodings(task, shape, batch.inputs))
            except FitError:
                continue
            except Exception as error:  # plugins may raise anything
                raise Broken(
                    f"task '{task.id}': its head for encodings {shape} {described(error)}; "
                    "average over positions first (api.ClassHead does), or raise FitError in make_head()"
                ) from error


@requires("batches_are_complete", "inputs_are_finite", "heads_fit_or_refuse")
def labels_are_those_of_the_head(make: Make[Stream]) -> None:
    """Labels count from 0, and the head has an output for each class; independent labels are 0 or 1."""
    stream = make()
    for task in stream.tasks:
        if task.outputs.is_binary:
            _check_labels(task)
        if task.outputs.kind != "logits":
            continue
        batch = next(batches(task))
        output = network(task)(batch.inputs)
        if batch.targets.is_floating_point() or output.ndim != batch.targets.ndim + 1:
            continue
        width, size = output.shape[1], task.outputs.size
        heads = f"its head has {width} output{'s' if width > 1 else ''}"
        if size is not None and size != width:
            raise Broken(f"task '{task.id}' declares {size} outputs, and {heads}; make them equal")
        lowest, highest, example = _labels(task)
        if highest >= width:
            raise Broken(
                f"task '{task.id}': example {example} has label {highest}, and {heads}; number the classes "
                "from 0, and make an output for each"
            )
        whole = 2 * epoch_steps(task) <= ID_STEPS and batch.targets.ndim == 1 and task.metric == "accuracy"
        if size is None and whole and (lowest > 0 or highest + 1 < width):
            raise Broken(
                f"task '{task.id}': labels are {lowest} to {highest}, and {heads}; number the classes "
                "from 0, and make an output for each (where some have no training example, declare "
                "outputs = Outputs('logits', size))"
            )


def _check_labels(task: Task) -> None:
    """Targets of independent labels are 0 or 1, one for each output."""
    batch = next(batches(task))
    output = network(task)(batch.inputs)
    if tuple(batch.targets.shape) != tuple(output.shape):
        raise Broken(
            f"task '{task.id}': targets have shape {tuple(batch.targets.shape)}, and the outputs, one for "
            f"each label, {tuple(output.shape)}; make them equal"
        )
    if not ((batch.targets >= 0) & (batch.targets <= 1)).all():
        raise Broken(f"task '{task.id}': targets of independent labels are not in [0, 1]")


def _labels(task: Task) -> tuple[int, int, int]:
    """The lowest and the highest label of an epoch, and an example with the highest; -100 and the like, which
    losses ignore, do not count.
    """
    lowest, highest, example = 2**31, -1, -1
    for batch in batches(task, steps=min(ID_STEPS, epoch_steps(task) + 1)):
        rows = batch.targets.reshape(BATCH, -1)
        counted = rows[rows >= 0]
        if len(counted):
            lowest = min(lowest, int(counted.min()))
        if int(rows.max()) > highest:
            highest, example = int(rows.max()), int(batch.ids[rows.amax(1).argmax()])
    return lowest, highest, example


@requires("batches_are_complete", "inputs_are_finite", "heads_fit_or_refuse", "labels_are_those_of_the_head")
def loss_is_one_number_per_example(make: Make[Stream]) -> None:
    """`loss` has shape (B,) and is finite for outputs of the task's own head."""
    for task in make().tasks:
        batch = next(batches(task))
        loss = task.loss(network(task)(batch.inputs), batch)
        if tuple(loss.shape) != (BATCH,):
            raise Broken(
                f"task '{task.id}': loss() of {BATCH} examples has shape {tuple(loss.shape)}; "
                "return one loss per example, with reduction='none'"
            )
        if not loss.isfinite().all():
            raise Broken(f"task '{task.id}': loss() is infinite or NaN for an untrained head")


@requires("loss_is_one_number_per_example")
def loss_changes_nothing(make: Make[Stream]) -> None:
    """`loss` changes neither the output nor the batch in place, and has a gradient."""
    for task in make().tasks:
        batch = next(batches(task))
        output, before = _output(task, batch), copied(batch)
        unchanged = output.detach().clone()
        loss = task.loss(output, batch)
        if not torch.equal(output.detach(), unchanged):
            raise Broken(
                f"task '{task.id}': loss() changes the output in place, which learners use after it; "
                "make a new tensor (x - y, not x.sub_(y) or x -= y)"
            )
        if not equal_batches(batch, before):
            raise Broken(f"task '{task.id}': loss() changes the batch in place; make new tensors")
        if output.requires_grad and not loss.requires_grad:
            raise Broken(f"task '{task.id}': loss() has no gradient; remove detach() and argmax() from it")


def _output(task: Task, batch: Batch) -> Tensor:
    return network(task, grad=True)(batch.inputs)


@requires("loss_is_one_number_per_example", "loss_changes_nothing")
def losses_are_independent(make: Make[Stream]) -> None:
    """The loss of an example does not depend on the others in its batch."""
    for task in make().tasks:
        batch = next(batches(task))
        output = network(task)(batch.inputs)
        whole = task.loss(output, batch)
        halves = (slice(BATCH // 2), slice(BATCH // 2, BATCH))
        alone = torch.cat([task.loss(output[half], some(batch, half)) for half in halves])
        if not torch.allclose(whole, alone, rtol=1e-3, atol=1e-4):
            raise Broken(
                f"task '{task.id}': the loss of an example depends on the others in its batch; "
                "normalise over an example only, since batches are split among micro-batches and processes"
            )


CHECKS = (
    heads_fit_or_refuse,
    labels_are_those_of_the_head,
    loss_is_one_number_per_example,
    loss_changes_nothing,
    losses_are_independent,
)
