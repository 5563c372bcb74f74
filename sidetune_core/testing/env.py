"""Checks of envs: what a stream of tasks promises about its data."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.config.options import structure
from sidetune_core.config.resolve import recipe_tables
from sidetune_core.config.spec import TrainOptions
from sidetune_core.errors import FitError
from sidetune_core.interfaces.inputs import Inputs, InputShapes, Shape
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task, TaskStream
from sidetune_core.rl.rollout_task import RolloutTask
from sidetune_core.seeding import seeded
from sidetune_core.testing.findings import SEED, Broken, Finding, Make, Skipped, examine
from sidetune_core.testing.state import random_state

SHAPES: tuple[Shape, ...] = ((64,), (8, 4, 4), (5, 8))
"""Encodings that a head is tried on, in this order."""
BATCH = 16
STEPS = 8
"""Training batches of a task that most checks look at."""
MANY_STEPS = 100
"""As many as the check of ids looks at, if a pass has so many."""


@attrs.frozen(eq=False)
class Stream:
    """An env whose data has been read."""

    env: TaskStream
    tasks: Sequence[Task]
    again: Callable[[], Stream]
    """Reads it once more, under the same seed, the first time that it is called."""
    drew: bool
    """Whether reading it touched the global random states."""


def check_env(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about an env. Data is read twice: once for most checks, and once more to compare."""
    opened: list[TaskStream] = []

    def read(seed: int) -> Stream:
        before = random_state()
        opened.append(cls(config, seed))
        return Stream(
            opened[-1], opened[-1].tasks(), functools.cache(lambda: read(seed)), random_state() != before
        )

    once = functools.cache(read)

    def make(seed: int = SEED) -> Stream:
        return once(seed)

    try:
        return examine({"": make}, CHECKS)
    finally:
        for env in opened:
            env.close()


def recipe_holds(make: Make[Stream]) -> None:
    """What the env would have for ``--train.*`` exists and is within its limits."""
    structure(TrainOptions, recipe_tables(make().env.recipe, "env")["train"], "recipe")


def tasks_have_ids_of_their_own(make: Make[Stream]) -> None:
    """There are tasks, and their ids are unique and plain."""
    ids = [task.id for task in make().tasks]
    if not ids:
        raise Broken("tasks() is empty; give at least one task")
    for name in ids:
        if not re.fullmatch(r"[A-Za-z0-9-]+", name):
            raise Broken(
                f"task id '{name}': use letters, digits and '-', for it becomes the name of a module"
            )
        if ids.count(name) > 1:
            raise Broken(f"{ids.count(name)} tasks have the id '{name}'; number them")


def inputs_have_the_declared_shapes(make: Make[Stream]) -> None:
    """The env, its tasks and their batches agree on names and shapes of the inputs."""
    stream = make()
    declared = _plain(stream.env.inputs)
    for task in stream.tasks:
        if _plain(task.inputs) != declared:
            raise Broken(
                f"the env declares inputs {declared} and its task '{task.id}' {_plain(task.inputs)}; make them equal"
            )
        batch = next(_batches(task))
        found = {name: tuple(value.shape[1:]) for name, value in batch.inputs.items()}
        if batch.inputs.lengths is not None:  # padded to the longest of the batch only
            found = {
                name: (max(shape[0], declared.get(name, shape)[0]), *shape[1:])
                for name, shape in found.items()
            }
        if found != declared:
            raise Broken(
                f"task '{task.id}' declares inputs {declared} and its batches have {found}; shapes leave the batch axis out"
            )


def batches_are_whole(make: Make[Stream]) -> None:
    """A batch has as many ids, inputs and targets as were asked for."""
    for task in make().tasks:
        for batch in _batches(task):
            sizes = {"ids": len(batch.ids), "targets": len(batch.targets)} | {
                name: len(value) for name, value in batch.inputs.items()
            }
            if wrong := {name: size for name, size in sizes.items() if size != BATCH}:
                raise Broken(
                    f"task '{task.id}': a batch of {BATCH} has {wrong}; fill it from the next pass (api.shuffled does)"
                )
            if batch.ids.dtype != torch.int64 or batch.ids.ndim != 1:
                raise Broken(
                    f"task '{task.id}': ids are {batch.ids.dtype} {tuple(batch.ids.shape)}; make them int64 (B,)"
                )


def loss_is_one_number_per_example(make: Make[Stream]) -> None:
    """`loss` is (B,) and finite for outputs of the task's own head."""
    for task in make().tasks:
        batch = next(_batches(task))
        loss = task.loss(_predict(task)(batch.inputs), batch)
        if tuple(loss.shape) != (BATCH,):
            raise Broken(
                f"task '{task.id}': loss() of {BATCH} examples is {tuple(loss.shape)}; give one per example, reduction='none'"
            )
        if not loss.isfinite().all():
            raise Broken(f"task '{task.id}': loss() is infinite or NaN for a head that has seen nothing")


def order_is_the_same_twice(make: Make[Stream]) -> None:
    """Batches are a pure function of (seed, task, step)."""
    for task in make().tasks:
        if not _agree(_batches(task), _batches(task)):
            raise Broken(
                f"task '{task.id}': train() twice with one order differs; draw from order.seed alone (api.shuffled does)"
            )


def order_can_begin_at_any_step(make: Make[Stream]) -> None:
    """Beginning at step k gives what the whole order has from step k on."""
    for task in make().tasks:
        if not task.can_resume_at(3, BATCH):
            raise Skipped(f"task '{task.id}' can go on at some steps only")
        if not _agree(islice(_batches(task), 3, None), islice(_batches(task, first_step=3), STEPS - 3)):
            raise Broken(
                f"task '{task.id}': train() from order.first_step = 3 gives other batches than going there step by step"
            )


def global_random_state_is_left_alone(make: Make[Stream]) -> None:
    """Reading data, making batches and evaluating draw from generators of their own."""
    stream = make()
    if stream.again().drew:  # the first time, importing a library may draw
        raise Broken(
            "reading the data draws from a global generator, or seeds it; make a generator of your own from the seed"
        )
    for task in stream.tasks:
        predict = _predict(task)
        before = random_state()
        batch = list(islice(task.train(predict, Order(SEED, BATCH)), 2))[-1]
        task.loss(predict(batch.inputs), batch)
        task.evaluate(predict, task.splits[0])
        if random_state() != before:
            raise Broken(
                f"task '{task.id}' draws from a global generator, or seeds it; make a generator of your own from order.seed"
            )


def training_examples_are_not_tested(make: Make[Stream]) -> None:
    """No id that is trained on is in a split of `evaluate`, over the whole stream. Inputs without ids cannot be told."""
    tasks = make().tasks
    trained: set[int] = set()
    for task in tasks:
        for batch in _batches(task, steps=min(MANY_STEPS, task.steps_per_epoch(BATCH))):
            trained.update(batch.ids.tolist())
    for task in tasks:
        for split in task.splits:
            seen: set[int] = set()
            task.evaluate(_predict(task, seen), split)
            if both := sorted(trained & seen):
                raise Broken(
                    f"task '{task.id}': ids such as {both[0]} are trained on and in split '{split}' ({len(both)}); number splits apart"
                )


def inputs_with_ids_never_change(make: Make[Stream]) -> None:
    """Where `Inputs.ids` is set, the inputs are a function of the example: what a base makes of them may be stored."""
    for task in make().tasks:
        known: dict[int, tuple[Tensor, ...]] = {}
        for batch in (*_batches(task, seed=SEED), *_batches(task, seed=SEED + 1)):
            if batch.inputs.ids is None:
                continue
            rows = [*zip(*batch.inputs.values(), strict=True)]
            if batch.inputs.lengths is not None:
                rows = [
                    tuple(value[:length] for value in row)
                    for row, length in zip(rows, batch.inputs.lengths.tolist(), strict=True)
                ]
            for number, row in zip(batch.inputs.ids.tolist(), rows, strict=True):
                if not all(map(torch.equal, known.setdefault(number, row), row)):
                    raise Broken(
                        f"task '{task.id}': example {number} changes between visits; leave Inputs.ids None for augmented inputs"
                    )


def evaluation_gives_the_metric(make: Make[Stream]) -> None:
    """`evaluate` gives finite figures for every split, 'test' among them, with the declared metric."""
    for task in make().tasks:
        if "test" not in task.splits:
            raise Broken(f"task '{task.id}' has splits {', '.join(task.splits)}; R is measured on 'test'")
        for split in task.splits:
            figures = task.evaluate(_predict(task), split)
            if task.metric not in figures:
                raise Broken(
                    f"task '{task.id}': evaluate() gives {', '.join(figures)}, and not the metric '{task.metric}'"
                )
            if wrong := {
                name: value
                for name, value in figures.items()
                if not isinstance(value, float) or not math.isfinite(value)
            }:
                raise Broken(f"task '{task.id}': evaluate() gives {wrong}; give finite floats")


def experts_act(make: Make[Stream]) -> None:
    """Whoever a task that is acted in names among its `experts` gives an action (1, width) there, or None."""
    for task in make().tasks:
        for name in task.experts if isinstance(task, RolloutTask) else ():
            assert isinstance(task, RolloutTask)
            expert = task.expert(name)
            with closing(task.make_vector_env(1)) as vector_env:
                now = vector_env.reset(SEED)
                expert.begin(vector_env, SEED)
                action = expert.act(now)
            if action is not None and tuple(action.shape) != (1, task.policy.width):
                raise Broken(
                    f"task '{task.id}': its expert '{name}' gives {tuple(action.shape)}; give (1, {task.policy.width}), or None"
                )


def pictures_can_be_shown(make: Make[Stream]) -> None:
    """Pictures, if there are any, are (3, H, W) in [0, 1], with plain names."""
    for task in make().tasks:
        for name, picture in task.visualisations(_predict(task)).items():
            if not re.fullmatch(r"[A-Za-z0-9-]+", name):
                raise Broken(f"task '{task.id}': picture '{name}' names a file: use letters, digits and '-'")
            if picture.ndim != 3 or len(picture) != 3 or not ((picture >= 0) & (picture <= 1)).all():
                raise Broken(
                    f"task '{task.id}': picture '{name}' is {tuple(picture.shape)}; make it (3, H, W) in [0, 1]"
                )


def two_streams_of_one_seed_agree(make: Make[Stream]) -> None:
    """The seed decides which tasks there are and what is in them."""
    first = make()
    second = first.again()
    if [task.id for task in first.tasks] != [task.id for task in second.tasks]:
        raise Broken("two streams of one seed have other tasks; draw them from the seed alone")
    for one, other in zip(first.tasks, second.tasks, strict=True):
        if not _agree(_batches(one), _batches(other)):
            raise Broken(
                f"task '{one.id}': two streams of one seed give other batches; draw the data from the seed alone"
            )
    if first.env.fingerprint() != second.env.fingerprint():
        raise Broken(
            "two streams of one seed have other fingerprints; make it of the data alone (api.Examples has one)"
        )


CHECKS = (
    recipe_holds,
    tasks_have_ids_of_their_own,
    inputs_have_the_declared_shapes,
    batches_are_whole,
    loss_is_one_number_per_example,
    order_is_the_same_twice,
    order_can_begin_at_any_step,
    global_random_state_is_left_alone,
    training_examples_are_not_tested,
    inputs_with_ids_never_change,
    evaluation_gives_the_metric,
    experts_act,
    pictures_can_be_shown,
    two_streams_of_one_seed_agree,
)


def _batches(task: Task, seed: int = SEED, first_step: int = 0, steps: int = STEPS) -> Iterator[Batch]:
    """The training batches of some steps."""
    return islice(task.train(_predict(task), Order(seed, BATCH, first_step)), steps)


def _predict(task: Task, seen: set[int] | None = None) -> Predict:
    """A network that looks at nothing: the task's head on blank encodings, of sequences as long as the inputs. Ids are added to `seen`."""
    head, shape = _head(task)

    def predict(inputs: Inputs) -> Tensor:
        if seen is not None and inputs.ids is not None:
            seen.update(inputs.ids.tolist())
        with torch.no_grad():
            batch, *width = next(iter(inputs.values())).shape
            output: Tensor = head(
                torch.zeros(batch, *(shape if inputs.lengths is None else (width[0], *shape[1:])))
            )
        return output

    return predict


def _head(task: Task) -> tuple[nn.Module, Shape]:
    """A head, and the shape of encodings that it is made for."""
    refusals = []
    sequences = {(size[0], 8) for size in task.inputs.values() if len(size) == 1}
    for shape in (*SHAPES, *sequences):
        try:
            with seeded(SEED, "head", task.id):
                return task.make_head(shape).eval(), shape
        except FitError as error:
            refusals.append(error)
    raise refusals[0]


def _agree(first: Iterator[Batch], second: Iterator[Batch]) -> bool:
    return all(_same(one, other) for one, other in zip(first, second, strict=True))


def _same(one: Batch, other: Batch) -> bool:
    pairs = [
        (one.ids, other.ids),
        (one.targets, other.targets),
        *((value, other.inputs[name]) for name, value in one.inputs.items()),
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def _plain(shapes: InputShapes) -> dict[str, Shape]:
    return {name: tuple(shape) for name, shape in shapes.items()}
