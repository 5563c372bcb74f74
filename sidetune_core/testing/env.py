"""Checks of envs: the contracts of a stream of tasks about its data."""

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
from sidetune_core.interfaces.capabilities import HasVisualisations, ResumesAtSomeSteps
from sidetune_core.interfaces.inputs import Inputs, InputShapes, Shape
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task, TaskStream
from sidetune_core.seeding import seeded
from sidetune_core.testing.findings import SEED, Broken, Finding, Make, Skipped, examine
from sidetune_core.testing.state import random_state

SHAPES: tuple[Shape, ...] = ((64,), (8, 4, 4), (5, 8))
"""Shapes of encodings on which a head is tried, in this order."""
BATCH = 16
STEPS = 8
"""Training batches of a task that most checks read."""
ID_STEPS = 100
"""Training batches of a task whose ids are compared with those of the other splits, at most one epoch."""


@attrs.frozen(eq=False)
class Stream:
    """An env whose data has been read."""

    env: TaskStream
    tasks: Sequence[Task]
    again: Callable[[], Stream]
    """Reads the env once more, with the same seed, at the first call."""
    drew: bool
    """Whether reading the data changed the global random states."""


def check_env(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about an env. The data is read twice: once for most checks, and once more to compare."""
    opened: list[TaskStream] = []

    def read(seed: int) -> Stream:
        before = random_state()
        env: TaskStream = cls(config, seed)
        opened.append(env)
        tasks = env.tasks()
        return Stream(env, tasks, functools.cache(lambda: read(seed)), random_state() != before)

    once = functools.cache(read)

    def make(seed: int = SEED) -> Stream:
        return once(seed)

    try:
        return examine({"": make}, CHECKS)
    finally:
        for env in opened:
            env.close()


def recipe_is_valid(make: Make[Stream]) -> None:
    """The env's defaults for ``--train.*`` are valid options."""
    structure(TrainOptions, recipe_tables(make().env.recipe, "env")["train"], "recipe")


def task_ids_are_unique(make: Make[Stream]) -> None:
    """The stream has tasks, whose ids are unique and have letters, digits and ``-`` only."""
    ids = [task.id for task in make().tasks]
    if not ids:
        raise Broken("tasks() is empty; return at least one task")
    for name in ids:
        if not re.fullmatch(r"[A-Za-z0-9-]+", name):
            raise Broken(f"task id '{name}': use letters, digits and '-', since it names a module")
        if ids.count(name) > 1:
            raise Broken(f"{ids.count(name)} tasks have the id '{name}'; make ids unique")


def inputs_have_the_declared_shapes(make: Make[Stream]) -> None:
    """The env, its tasks and their batches have the same names and shapes of inputs."""
    stream = make()
    declared = _plain(stream.env.inputs)
    for task in stream.tasks:
        if _plain(task.inputs) != declared:
            raise Broken(
                f"the env declares inputs {declared} and its task '{task.id}' {_plain(task.inputs)}; "
                "make them equal"
            )
        batch = next(_batches(task))
        shapes = {name: tuple(value.shape[1:]) for name, value in batch.inputs.items()}
        if batch.inputs.lengths is not None:  # padded to the longest of the batch only
            shapes = {
                name: (max(shape[0], declared.get(name, shape)[0]), *shape[1:])
                for name, shape in shapes.items()
            }
        if shapes != declared:
            raise Broken(
                f"task '{task.id}' declares inputs {declared} and its batches have {shapes}; "
                "make them equal (shapes leave out the batch axis)"
            )


def batches_are_complete(make: Make[Stream]) -> None:
    """A batch has the requested number of ids, inputs and targets."""
    for task in make().tasks:
        for batch in _batches(task):
            sizes = {"ids": len(batch.ids), "targets": len(batch.targets)}
            sizes |= {name: len(value) for name, value in batch.inputs.items()}
            if wrong := {name: size for name, size in sizes.items() if size != BATCH}:
                raise Broken(
                    f"task '{task.id}': a batch of {BATCH} has {wrong}; "
                    "complete it from the next epoch (api.shuffled does)"
                )
            if batch.ids.dtype != torch.int64 or batch.ids.ndim != 1:
                raise Broken(
                    f"task '{task.id}': ids are {batch.ids.dtype} {tuple(batch.ids.shape)}; "
                    "make them int64 (B,)"
                )


def loss_is_one_number_per_example(make: Make[Stream]) -> None:
    """`loss` has shape (B,) and is finite for outputs of the task's own head."""
    for task in make().tasks:
        batch = next(_batches(task))
        loss = task.loss(_predict(task)(batch.inputs), batch)
        if tuple(loss.shape) != (BATCH,):
            raise Broken(
                f"task '{task.id}': loss() of {BATCH} examples has shape {tuple(loss.shape)}; "
                "return one loss per example, with reduction='none'"
            )
        if not loss.isfinite().all():
            raise Broken(f"task '{task.id}': loss() is infinite or NaN for an untrained head")


def order_is_the_same_twice(make: Make[Stream]) -> None:
    """Batches are a function of (seed, task, step) only."""
    for task in make().tasks:
        if not _agree(_batches(task), _batches(task)):
            raise Broken(
                f"task '{task.id}': two calls of train() with one order differ; "
                "draw from order.seed only (api.shuffled does)"
            )


def order_can_begin_at_any_step(make: Make[Stream]) -> None:
    """Training batches from step k equal those of the whole order from step k."""
    for task in make().tasks:
        if isinstance(task, ResumesAtSomeSteps) and not task.can_resume_at(3, BATCH):
            raise Skipped(f"task '{task.id}' can resume at some steps only")
        if not _agree(islice(_batches(task), 3, None), islice(_batches(task, first_step=3), STEPS - 3)):
            raise Broken(
                f"task '{task.id}': train() with order.first_step = 3 differs from the fourth batch onwards; "
                "skip the first batches (api.shuffled does)"
            )


def global_random_state_is_unchanged(make: Make[Stream]) -> None:
    """Reading data, making batches and evaluating do not change the global random states."""
    stream = make()
    if stream.again().drew:  # the first time, importing a library may draw
        raise Broken(
            "reading the data draws from a global generator, or seeds it; "
            "use a generator of your own, made from the seed"
        )
    for task in stream.tasks:
        predict = _predict(task)
        before = random_state()
        batch = list(islice(task.train(predict, Order(SEED, BATCH)), 2))[-1]
        task.loss(predict(batch.inputs), batch)
        task.evaluate(predict, task.splits[0])
        if random_state() != before:
            raise Broken(
                f"task '{task.id}' draws from a global generator, or seeds it; "
                "use a generator of your own, made from order.seed"
            )


def training_examples_are_not_tested(make: Make[Stream]) -> None:
    """No training id of any task is in a split of `evaluate`; inputs without ids are not checked."""
    tasks = make().tasks
    trained: set[int] = set()
    for task in tasks:
        for batch in _batches(task, steps=min(ID_STEPS, task.steps_per_epoch(BATCH))):
            trained.update(batch.ids.tolist())
    for task in tasks:
        for split in task.splits:
            seen: set[int] = set()
            task.evaluate(_predict(task, seen), split)
            if shared := sorted(trained & seen):
                raise Broken(
                    f"task '{task.id}': {len(shared)} training ids, such as {shared[0]}, "
                    f"are in split '{split}'; "
                    "give the examples of each split ids of their own"
                )


def inputs_with_ids_never_change(make: Make[Stream]) -> None:
    """Inputs with `Inputs.ids` are a function of the example, since the core caches features by id."""
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
            for example_id, row in zip(batch.inputs.ids.tolist(), rows, strict=True):
                if not all(map(torch.equal, known.setdefault(example_id, row), row)):
                    raise Broken(
                        f"task '{task.id}': the input of example {example_id} changes; "
                        "leave Inputs.ids None for augmented inputs"
                    )


def evaluation_gives_the_metric(make: Make[Stream]) -> None:
    """`evaluate` returns finite metrics with the declared one for every split, and 'test' is a split."""
    for task in make().tasks:
        if "test" not in task.splits:
            raise Broken(
                f"task '{task.id}' has splits {', '.join(task.splits)}; add 'test', on which R is measured"
            )
        for split in task.splits:
            metrics = task.evaluate(_predict(task), split)
            if task.metric not in metrics:
                raise Broken(
                    f"task '{task.id}': evaluate() returns {', '.join(metrics)}; "
                    f"add the metric '{task.metric}'"
                )
            wrong = {
                name: value
                for name, value in metrics.items()
                if not isinstance(value, float) or not math.isfinite(value)
            }
            if wrong:
                raise Broken(f"task '{task.id}': evaluate() returns {wrong}; return finite floats")


def experts_act(make: Make[Stream]) -> None:
    """Every expert that a rollout task lists returns an action of shape (1, width), or None."""
    for task in make().tasks:
        if getattr(task, "experts", ()):
            _check_experts(task)


def _check_experts(task: Task) -> None:
    from sidetune_core.rl.rollout_task import RolloutTask  # only envs with rollout tasks need it

    if not isinstance(task, RolloutTask):
        return
    for name in task.experts:
        expert = task.expert(name)
        with closing(task.make_vector_env(1)) as vector_env:
            observations = vector_env.reset(SEED)
            expert.begin(vector_env, SEED)
            action = expert.act(observations)
        if action is not None and tuple(action.shape) != (1, task.policy.width):
            raise Broken(
                f"task '{task.id}': its expert '{name}' returns an action of shape {tuple(action.shape)}; "
                f"return (1, {task.policy.width}), or None"
            )


def visualisations_are_images(make: Make[Stream]) -> None:
    """Visualisations, if any, are (3, H, W) in [0, 1], with names of letters, digits and ``-``."""
    for task in make().tasks:
        if not isinstance(task, HasVisualisations):
            continue
        for name, image in task.visualisations(_predict(task)).items():
            if not re.fullmatch(r"[A-Za-z0-9-]+", name):
                raise Broken(f"task '{task.id}': image '{name}' names a file: use letters, digits and '-'")
            if image.ndim != 3 or len(image) != 3 or not ((image >= 0) & (image <= 1)).all():
                raise Broken(
                    f"task '{task.id}': image '{name}' is {tuple(image.shape)}; make it (3, H, W) in [0, 1]"
                )


def two_streams_of_one_seed_agree(make: Make[Stream]) -> None:
    """Two streams with one seed have the same tasks, batches and fingerprint."""
    first = make()
    second = first.again()
    if [task.id for task in first.tasks] != [task.id for task in second.tasks]:
        raise Broken("two streams with one seed have different tasks; draw them from the seed only")
    for task, same_task in zip(first.tasks, second.tasks, strict=True):
        if not _agree(_batches(task), _batches(same_task)):
            raise Broken(
                f"task '{task.id}': two streams with one seed have different batches; "
                "draw the data from the seed only"
            )
    if first.env.fingerprint() != second.env.fingerprint():
        raise Broken(
            "two streams with one seed have different fingerprints; "
            "compute it from the data only (api.Examples has one)"
        )


CHECKS = (
    recipe_is_valid,
    task_ids_are_unique,
    inputs_have_the_declared_shapes,
    batches_are_complete,
    loss_is_one_number_per_example,
    order_is_the_same_twice,
    order_can_begin_at_any_step,
    global_random_state_is_unchanged,
    training_examples_are_not_tested,
    inputs_with_ids_never_change,
    evaluation_gives_the_metric,
    experts_act,
    visualisations_are_images,
    two_streams_of_one_seed_agree,
)


def _batches(task: Task, seed: int = SEED, first_step: int = 0, steps: int = STEPS) -> Iterator[Batch]:
    """Training batches of a task."""
    return islice(task.train(_predict(task), Order(seed, BATCH, first_step)), steps)


def _predict(task: Task, seen: set[int] | None = None) -> Predict:
    """A network that ignores its inputs: the task's head on zero encodings, sequences as long as the inputs.

    It adds the ids of its inputs to `seen`.
    """
    head, shape = _head(task)

    def predict(inputs: Inputs) -> Tensor:
        if seen is not None and inputs.ids is not None:
            seen.update(inputs.ids.tolist())
        with torch.no_grad():
            batch, *sizes = next(iter(inputs.values())).shape
            encoding = shape if inputs.lengths is None else (sizes[0], *shape[1:])
            output: Tensor = head(torch.zeros(batch, *encoding))
        return output

    return predict


def _head(task: Task) -> tuple[nn.Module, Shape]:
    """A head, and the shape of its encodings."""
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
    return all(_equal(batch, same_batch) for batch, same_batch in zip(first, second, strict=True))


def _equal(first: Batch, second: Batch) -> bool:
    pairs = [
        (first.ids, second.ids),
        (first.targets, second.targets),
        *((value, second.inputs[name]) for name, value in first.inputs.items()),
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def _plain(shapes: InputShapes) -> dict[str, Shape]:
    return {name: tuple(shape) for name, shape in shapes.items()}
