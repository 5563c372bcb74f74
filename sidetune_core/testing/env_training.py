"""Checks of envs: training batches and their order."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from itertools import islice

import torch

from sidetune_core.interfaces.capabilities import HasState, ResumesAtSomeSteps, set_task_state, task_state
from sidetune_core.interfaces.tasks import Order, Task
from sidetune_core.storage import nested_state
from sidetune_core.supervised.task import SupervisedTask
from sidetune_core.testing.findings import SEED, Broken, Make, Skipped, described, requires
from sidetune_core.testing.state import random_state
from sidetune_core.testing.stream import (
    BATCH,
    ID_STEPS,
    STEPS,
    Stream,
    acts,
    agree,
    batches,
    copied,
    epoch_steps,
    equal_batches,
    network,
)

LARGEST_PIXEL = 20.0
"""Standardised images stay below it, images of bytes do not."""


def steps_per_epoch_counts_batches(make: Make[Stream]) -> None:
    """`steps_per_epoch` is a whole number of at least 1, about the number of examples / batch size."""
    for task in make().tasks:
        steps = task.steps_per_epoch(BATCH)
        if not isinstance(steps, int) or steps < 1:
            raise Broken(
                f"task '{task.id}': steps_per_epoch({BATCH}) is {steps!r}; "
                "return max(1, round(number of examples / batch_size))"
            )


def training_never_ends(make: Make[Stream]) -> None:
    """`train` yields batches without end: more than one epoch."""
    for task in make().tasks:
        wanted = min(ID_STEPS, epoch_steps(task) + STEPS)
        if (count := sum(1 for _ in batches(task, steps=wanted))) < wanted:
            raise Broken(
                f"task '{task.id}': train() ends after {count} batches of {BATCH}; "
                "begin a new epoch, without end (api.shuffled does)"
            )


@requires("training_never_ends")
def batches_are_complete(make: Make[Stream]) -> None:
    """A batch has the requested number of ids, inputs and targets."""
    for task in make().tasks:
        for batch in batches(task):
            sizes = {"ids": len(batch.ids), "targets": len(batch.targets)}
            sizes |= {name: len(value) for name, value in batch.inputs.items()}
            if wrong := {name: size for name, size in sizes.items() if size != BATCH}:
                raise Broken(
                    f"task '{task.id}': a batch of {BATCH} has {wrong}; "
                    "complete it from the next epoch (api.shuffled does)"
                )
            for ids in (batch.ids, batch.inputs.ids):
                if ids is not None and (ids.dtype != torch.int64 or ids.shape != (BATCH,)):
                    raise Broken(
                        f"task '{task.id}': ids are {ids.dtype} {tuple(ids.shape)}; make them int64 (B,)"
                    )


@requires("batches_are_complete")
def inputs_are_finite(make: Make[Stream]) -> None:
    """No input of training is infinite or NaN."""
    for task in make().tasks:
        for batch in batches(task, steps=min(ID_STEPS, epoch_steps(task))):
            for name, value in batch.inputs.items():
                wrong = ~value.reshape(BATCH, -1).isfinite().all(1)
                if wrong.any():
                    example = int(batch.ids[wrong][0])
                    raise Broken(
                        f"task '{task.id}': input '{name}' of example {example} is infinite or NaN; "
                        "correct or leave out such examples"
                    )


@requires("batches_are_complete", "inputs_are_finite")
def inputs_are_float32(make: Make[Stream]) -> None:
    """Inputs are float32, or whole numbers such as tokens; images of bytes are scaled."""
    for task in make().tasks:
        for name, value in next(batches(task)).inputs.items():
            if value.is_floating_point() and value.dtype != torch.float32:
                raise Broken(f"task '{task.id}': input '{name}' is {value.dtype}; make it torch.float32")
            if value.ndim == 4 and value.shape[1] <= 4 and value.abs().max() > LARGEST_PIXEL:
                raise Broken(
                    f"task '{task.id}': images '{name}' have values up to {float(value.abs().max()):g}; "
                    "scale them to [0, 1], for which bases are trained"
                )


@requires("batches_are_complete")
def batches_are_kept(make: Make[Stream]) -> None:
    """A batch does not change when the next one is made: learners keep some."""
    for task in make().tasks:
        stream = batches(task)
        first = next(stream)
        before = copied(first)
        next(stream)
        if not equal_batches(first, before):
            raise Broken(
                f"task '{task.id}': a batch changes when train() makes the next one; "
                "make new tensors for every batch"
            )


@requires("batches_are_complete")
def global_random_state_is_unchanged(make: Make[Stream]) -> None:
    """Reading data, making batches and evaluating do not change the global random states."""
    stream = make()
    if stream.again().drew:  # the first time, importing a library may draw
        raise Broken(
            "reading the data draws from a global generator, or seeds it; "
            "use a generator of your own, made from the seed"
        )
    for task in stream.tasks:
        predict = network(task)
        before = random_state()
        batch = list(islice(task.train(predict, Order(SEED, BATCH)), 2))[-1]
        _expect(before, task, "train()")
        with suppress(Exception):  # other checks report what it raises
            task.loss(predict(batch.inputs), batch)
        _expect(before, task, "loss()")
        task.evaluate(predict, task.splits[0])
        _expect(before, task, "evaluate()")


def _expect(before: tuple[object, ...], task: Task, what: str) -> None:
    if random_state() != before:
        seed = "order.seed" if what == "train()" else "a fixed seed"
        raise Broken(
            f"task '{task.id}': {what} draws from a global generator, or seeds it; "
            f"use a generator of your own, made from {seed}"
        )


@requires("batches_are_complete")
def state_survives_a_round_trip(make: Make[Stream]) -> None:
    """`state` has plain values and tensors, and `set_state` restores them."""
    for task in make().tasks:
        if not isinstance(task, HasState):
            continue
        state = task.state()
        try:
            plain, tensors = nested_state.flatten(state)
            restored = nested_state.unflatten(json.loads(json.dumps(plain)), tensors)
            task.set_state(restored)
            again = nested_state.flatten(task.state())
        except Exception as error:  # plugins may raise anything
            raise Broken(
                f"task '{task.id}': set_state() of what state() returned {described(error)}; "
                "return and restore plain values and tensors"
            ) from error
        same = again[0] == plain and all(torch.equal(again[1][name], tensors[name]) for name in tensors)
        if not same:
            raise Broken(
                f"task '{task.id}': state() after set_state() is another; restore all that it returns"
            )


@requires("batches_are_kept", "global_random_state_is_unchanged", "state_survives_a_round_trip")
def order_is_the_same_twice(make: Make[Stream]) -> None:
    """Batches are a function of (seed, task, step) and of the task's `state` only."""
    stream = make()
    for task in stream.tasks:
        state = task_state(task)
        first = [copied(batch) for batch in batches(task)]
        set_task_state(task, state)
        if agree(iter(first), batches(task)):
            continue
        fresh = [_task(stream.fresh(SEED), task) for _ in range(2)]
        if agree(batches(fresh[0]), batches(fresh[1])):
            raise Broken(
                f"task '{task.id}': two calls of train() with one order differ, since the task keeps "
                "something of the first; return it from state(), or keep nothing"
            )
        raise Broken(
            f"task '{task.id}': two calls of train() with one order differ; "
            "draw from order.seed only (api.shuffled does)"
        )


def _task(stream: Stream, like: Task) -> Task:
    return next(task for task in stream.tasks if task.id == like.id)


@requires("order_is_the_same_twice")
def order_can_begin_at_any_step(make: Make[Stream]) -> None:
    """Training batches from step k equal those of the whole order from step k."""
    for task in make().tasks:
        if isinstance(task, ResumesAtSomeSteps) and not task.can_resume_at(3, BATCH):
            raise Skipped(f"task '{task.id}' can resume at some steps only")
        if not agree(islice(batches(task), 3, None), batches(task, first_step=3, steps=STEPS - 3)):
            raise Broken(
                f"task '{task.id}': train() with order.first_step = 3 differs from the fourth batch onwards; "
                "skip the first batches (api.shuffled does)"
            )


@requires("order_is_the_same_twice")
def order_depends_on_the_seed(make: Make[Stream]) -> None:
    """Another seed gives another order of examples."""
    for task in make().tasks:
        first = list(batches(task))
        several = len({example_id for batch in first for example_id in batch.ids.tolist()}) > 1
        if several and agree(iter(first), batches(task, seed=SEED + 1)):
            raise Broken(
                f"task '{task.id}': train() has one order for all seeds; make it from order.seed "
                "(api.shuffled does)"
            )


@requires("batches_are_complete", "order_is_the_same_twice")
def examples_have_one_label(make: Make[Stream]) -> None:
    """`Batch.ids` are the examples' own: one id has one label."""
    stream = make()
    for task in stream.tasks:
        if acts(task):
            continue
        noted, labels = stream.trained(task), dict[int, int]()
        for example_id, label in zip(noted.ids, noted.labels, strict=False):
            if labels.setdefault(example_id, label) != label:
                raise Broken(
                    f"task '{task.id}': example {example_id} has labels {labels[example_id]} and {label}; "
                    "let Batch.ids name the examples, not places in a batch"
                )


@requires("steps_per_epoch_counts_batches", "order_is_the_same_twice", "examples_have_one_label")
def epochs_have_every_example_once(make: Make[Stream]) -> None:
    """An epoch of `steps_per_epoch` batches is about as long as the task has examples."""
    stream = make()
    for task in stream.tasks:
        steps = epoch_steps(task)
        if 2 * steps > ID_STEPS or acts(task):
            continue
        if isinstance(task, SupervisedTask) and task.sampling != "uniform":
            continue  # drawn with replacement
        ids, length = stream.trained(task).ids, steps * BATCH
        if len(set(ids)) > 1.5 * length or min(Counter(ids[:length]).values()) > 1:
            ids = stream.trained(
                task, more=True
            ).ids  # the order may be other than of epochs, such as by length
        count = len(set(ids))
        if count > 1.5 * length:
            raise Broken(
                f"task '{task.id}': steps_per_epoch({BATCH}) is {steps}, and the task has at least {count} "
                "examples; return max(1, round(number of examples / batch_size))"
            )
        if steps > 1 and length > 2 * count:
            raise Broken(
                f"task '{task.id}': an epoch is {steps} batches of {BATCH}, and there are {count} ids; let "
                "Batch.ids name the examples, not places in a batch, and return "
                "max(1, round(number of examples / batch_size)) from steps_per_epoch()"
            )
        if count < BATCH:
            raise Skipped(f"task '{task.id}' has {count} training examples, fewer than a batch of {BATCH}")


@requires("order_is_the_same_twice", "examples_have_one_label", "evaluation_keeps_its_inputs")
def inputs_with_ids_never_change(make: Make[Stream]) -> None:
    """Inputs with `Inputs.ids` are a function of the example, since the core caches features by id."""
    stream = make()
    for task in stream.tasks:
        known: dict[int, bytes] = {}
        for seed in (SEED, SEED + 1):
            for example_id, digest in stream.trained(task, seed).by_id():
                if known.setdefault(example_id, digest) != digest:
                    raise Broken(
                        f"task '{task.id}': the input of example {example_id} changes; "
                        "leave Inputs.ids None for augmented inputs"
                    )
        for split in task.splits:
            evaluated: dict[int, bytes] = {}
            for example_id, digest in stream.evaluated(task, split).by_id():
                if evaluated.setdefault(example_id, digest) != digest:
                    raise Broken(
                        f"task '{task.id}': two examples of split '{split}' have the id {example_id}; "
                        "give each an id of its own, the same in Inputs.ids as in Batch.ids"
                    )


FIRST = (
    steps_per_epoch_counts_batches,
    training_never_ends,
    batches_are_complete,
    inputs_are_finite,
    inputs_are_float32,
)
CHECKS = (
    batches_are_kept,
    global_random_state_is_unchanged,
    state_survives_a_round_trip,
    order_is_the_same_twice,
    order_can_begin_at_any_step,
    order_depends_on_the_seed,
    examples_have_one_label,
    epochs_have_every_example_once,
)
