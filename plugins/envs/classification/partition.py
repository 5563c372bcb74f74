"""The partition of classes into tasks: by number, at random, or in an order of the user's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import attrs
import torch

from sidetune_core.api import DataError, OptionError, Renamed, derive_seed, shorten

MAX_BYTES = 2**24
"""Size up to which a file of tasks is read."""

FORMER_TASKS = Renamed("num-tasks", {count: count for count in range(1, 1001)})
"""A number as ``--env.tasks`` was the number of tasks in earlier versions."""


@attrs.frozen
class Partition:
    """Classes of each task."""

    tasks: list[list[int]]
    note: str = ""
    """What the user should know; empty for a partition into equal tasks."""


def divide(
    names: Sequence[str],
    own: str | None,
    size: int | None,
    order: Literal["consecutive", "random"],
    seed: int,
) -> Partition:
    """Divide classes into tasks.

    Args:
        names: of the classes.
        own: tasks in the order of the user (see `read_tasks`); they need not have every class.
        size: classes per task; the last task has the rest. None for all in one.
        order: of the classes.
        seed: of a random order.

    Raises:
        OptionError: `own` names a class that does not exist or has one twice, or more is given than needed.
    """
    if own is not None:
        if order == "random":
            raise OptionError("--env.tasks is an order of its own; leave out --env.partition random")
        chosen = own_tasks(names, own)
        label_of = {name: label for label, name in enumerate(names)}
        left = len(names) - sum(map(len, chosen))
        return Partition(
            [[label_of[name] for name in task] for task in chosen],
            f"{left:,} of {len(names):,} classes are in no task of --env.tasks" if left else "",
        )
    count = len(names)
    size = size or count
    labels = list(range(count))
    if order == "random":
        generator = torch.Generator().manual_seed(derive_seed(seed, "partition"))
        labels = torch.randperm(count, generator=generator).tolist()
    tasks = [labels[first : first + size] for first in range(0, count, size)]
    note = ""
    if count % size:
        last = len(tasks[-1])
        note = f"{count:,} classes in tasks of {size}: the last task has {last if last > 1 else 'only 1'}"
    return Partition(tasks, note)


def read_tasks(text: str) -> list[list[str]]:
    """Class names by task: ``cat,dog|bird``, or a file with a task per line, or ``.json`` with a list of
    lists.

    Raises:
        OptionError: there is no such file, or no class in a task.
        DataError: the file cannot be read.
    """
    path = Path(text).expanduser()
    is_file = path.suffix.lower() in (".json", ".txt", ".csv") or (len(text) < 256 and path.is_file())
    tasks = _read_file(path) if is_file else [_names(part) for part in text.split("|")]
    if not tasks or not all(tasks):
        where = f" {path}" if is_file else ""
        raise OptionError(f'--env.tasks{where}: a task has no class; expected such as "cat,dog|bird"')
    return tasks


def _read_file(path: Path) -> list[list[str]]:
    expected = "expected a task per line, its classes divided by commas, or .json with a list of lists"
    try:
        if not path.is_file():
            raise OptionError(f"no file {path} (--env.tasks); {expected}")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} (--env.tasks) has {path.stat().st_size:,} bytes; {expected}")
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            return [_names(line) for line in text.splitlines() if line.strip()]
        values = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} (--env.tasks) cannot be read: {_reason(error)}; {expected}") from error
    if not isinstance(values, list) or not all(isinstance(task, list) for task in values):
        raise DataError(f'{path} (--env.tasks): {expected}, such as [["cat", "dog"], ["bird"]]')
    return [[str(name) for name in task] for task in values]


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def own_tasks(names: Sequence[str], own: str) -> list[list[str]]:
    """The classes of each task in the user's order, by the names that they have in the data.

    Raises:
        OptionError: `own` names a class that does not exist, or has one twice.
    """
    label_of = _labels(names)
    tasks = read_tasks(own)
    asked = [name for task in tasks for name in task]
    if unknown := [name for name in asked if name not in label_of]:
        raise OptionError(
            f"--env.tasks names {len(unknown):,} of {len(asked):,} classes that the data do not have: "
            f"{shorten(map(repr, unknown))}.{_suggestion(unknown[0], names)} Its classes: {shorten(names, 8)}"
        )
    times = Counter(label_of[name] for name in asked)
    if twice := [names[label] for label, count in times.items() if count > 1]:
        raise OptionError(
            f"--env.tasks has {len(twice):,} of {len(times):,} classes more than once: {shorten(twice)}"
        )
    return [[names[label_of[name]] for name in task] for task in tasks]


def _labels(names: Sequence[str]) -> Mapping[str, int]:
    """Labels by name; ``3`` is ``class 3`` where classes have no other names."""
    short = {name.removeprefix("class "): label for label, name in enumerate(names)}
    return {**short, **{name: label for label, name in enumerate(names)}}


def _suggestion(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
