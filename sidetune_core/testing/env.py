"""Checks of envs: reading the data, the stream as a whole, and which checks there are."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import attrs

from sidetune_core.config import kinds, registry
from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.config.options import structure
from sidetune_core.config.resolve import recipe_components, recipe_options, recipe_tables
from sidetune_core.interfaces.inputs import InputShapes, Shape
from sidetune_core.interfaces.tasks import TaskStream
from sidetune_core.seeding import seeded
from sidetune_core.testing import env_evaluation, env_heads, env_training
from sidetune_core.testing.findings import SEED, Broken, Finding, Make, Skipped, attempt, examine, requires
from sidetune_core.testing.state import random_state
from sidetune_core.testing.stream import Rows, Stream, agree, batches

VARIANTS = 8
"""Largest number of other options with which the data is read."""
VARIANTS_TIME = 2.0
"""Seconds after which no other options are tried."""


def check_env(cls: type[Any], config: Any, given: object = None) -> list[Finding]:
    """Findings about an env. The data is read twice: once for most checks, and once more to compare."""
    opened: list[TaskStream] = []

    def read(seed: int, options: Any = config) -> Stream:
        before = random_state()
        env: TaskStream = cls(options, seed)
        opened.append(env)
        tasks = env.tasks()
        drew = random_state() != before
        return Stream(env, tasks, functools.cache(lambda: read(seed)), read, variants, drew)

    def variants() -> Iterator[tuple[str, Callable[[], Stream]]]:
        for name, other in _other_options(config):
            yield name, partial(read, SEED, other)

    once = functools.cache(read)

    def make(seed: int = SEED) -> Stream:
        return once(seed)

    def closes_twice() -> None:
        """`close` raises nothing, also when it is called again."""
        for env in [*opened, *opened[:1]]:
            env.close()

    return [*examine({"": make}, CHECKS[:-1]), attempt(closes_twice, env_closes.__name__)]


def env_closes(make: Make[Stream]) -> None:
    """`close` raises nothing, also when it is called again."""


def recipe_is_valid(make: Make[Stream]) -> None:
    """The env's defaults for ``--train.*``, and for options of installed components, are valid options."""
    recipe = make().env.recipe
    structure(TrainOptions, recipe_tables(recipe, "env")["train"], "recipe")
    for slot, name in recipe_components(recipe):
        options = recipe_options(recipe, slot, name)
        for plugin in registry.installed(kinds.kind(slot)):
            if plugin.name == name:
                structure(registry.load(plugin).Config, options, f"recipe of {slot} '{name}'")


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


def tasks_have_titles(make: Make[Stream]) -> None:
    """Every task has a title, for reports."""
    for task in make().tasks:
        title = getattr(task, "title", None)
        if not isinstance(title, str) or not title:
            raise Broken(f"task '{task.id}' has no title; set title to a text for reports")


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
        batch = next(batches(task))
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


@requires("two_streams_of_one_seed_agree")
def tasks_are_the_same_again(make: Make[Stream]) -> None:
    """A second call of `tasks` on one env returns the same tasks."""
    stream = make().again()
    first, second = stream.tasks, stream.env.tasks()
    same = [task.id for task in first] == [task.id for task in second] and all(
        agree(batches(task, steps=1), batches(again, steps=1))
        for task, again in zip(first, second, strict=True)
    )
    if not same:
        raise Broken(
            "a second call of tasks() on one env returns other tasks; "
            "make them from the options and the seed only"
        )


@requires("order_is_the_same_twice", "global_random_state_is_unchanged", "task_ids_are_unique")
def two_streams_of_one_seed_agree(make: Make[Stream]) -> None:
    """Two streams with one seed have the same tasks, batches and fingerprint."""
    first = make()
    second = first.again()
    if [task.id for task in first.tasks] != [task.id for task in second.tasks]:
        raise Broken("two streams with one seed have different tasks; draw them from the seed only")
    for task, same_task in zip(first.tasks, second.tasks, strict=True):
        if not agree(batches(task), batches(same_task)):
            raise Broken(
                f"task '{task.id}': two streams with one seed have different batches; "
                "draw the data from the seed only"
            )
    if first.env.fingerprint() != second.env.fingerprint():
        raise Broken(
            "two streams with one seed have different fingerprints; "
            "compute it from the data only (api.Examples has one)"
        )


@requires("two_streams_of_one_seed_agree", "inputs_with_ids_never_change")
def other_data_has_another_fingerprint(make: Make[Stream]) -> None:
    """Where another seed or option changes the inputs of an example, it changes the fingerprint."""
    stream = make()
    if not (fingerprint := stream.env.fingerprint()):
        raise Skipped("it has no fingerprint, so cached features are not kept for later runs")
    inputs = _inputs_by_id(stream)
    began = time.monotonic()
    other_seed: tuple[str, Callable[[], Stream]] = (f"seed {SEED + 1}", partial(stream.fresh, SEED + 1))
    for name, read in (other_seed, *stream.variants()):
        if time.monotonic() - began > VARIANTS_TIME:
            return
        try:
            with seeded(SEED, "variant"):
                other = read()
            same = other.env.fingerprint() == fingerprint
            others = _inputs_by_id(other) if same else {}
        except Exception:  # not every value of an option is possible
            continue
        if any(inputs[key] != digest for key, digest in others.items() if key in inputs):
            raise Broken(
                f"with {name} examples have other inputs and fingerprint() is the same, so the feature cache "
                "would serve those of other data; include all that the data and its transforms depend on"
            )


def _inputs_by_id(stream: Stream) -> dict[tuple[str, int], bytes]:
    """A digest of the inputs by task and id, of a few batches of each task."""
    found = {}
    for task in stream.tasks:
        noted = Rows()
        for batch in islice(batches(task), 4):
            noted.add(batch.inputs, batch)
        found.update({(task.id, example_id): digest for example_id, digest in noted.by_id()})
    return found


def _other_options(config: Any) -> Iterator[tuple[str, Any]]:
    """Configs with one other value each: the opposite, one more, one and a half times as much."""
    found = 0
    for field in attrs.fields(type(config)):
        value = getattr(config, field.name)
        others: Mapping[type, Callable[[Any], Any]] = {
            bool: lambda old: not old,
            int: lambda old: old + 1,
            float: lambda old: 1.5 * old + 0.1,
        }
        if type(value) not in others or found == VARIANTS:
            continue
        try:
            other = attrs.evolve(config, **{field.name: others[type(value)](value)})
        except Exception:  # out of the option's limits
            continue
        found += 1
        yield f"option {field.name} = {getattr(other, field.name)}", other


def _plain(shapes: InputShapes) -> dict[str, Shape]:
    return {name: tuple(shape) for name, shape in shapes.items()}


CHECKS = (
    recipe_is_valid,
    task_ids_are_unique,
    tasks_have_titles,
    *env_training.FIRST,
    inputs_have_the_declared_shapes,
    *env_heads.CHECKS,
    *env_training.CHECKS,
    *env_evaluation.CHECKS,
    two_streams_of_one_seed_agree,
    other_data_has_another_fingerprint,
    tasks_are_the_same_again,
    env_closes,
)
