"""The tasks of an env that a run trains, and what is known of them before: the metric of R, and their
splits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import chdir, closing

import attrs

from sidetune_core.assembly.build import build_stream
from sidetune_core.config.options import describe
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.config.selection import Selection, missing_split
from sidetune_core.errors import OptionError
from sidetune_core.interfaces.tasks import Task
from sidetune_core.io.printable import counted


@attrs.frozen
class TaskFacts:
    """What a search of options has to know of the tasks that it measures."""

    count: int
    metrics: tuple[str, ...]
    """The metric of each."""
    higher_is_better: tuple[bool, ...]


def selected_tasks(tasks: Sequence[Task], selection: Selection, resolved: ResolvedRun) -> Sequence[Task]:
    """The tasks of an env that are trained.

    Raises:
        OptionError: the env has fewer tasks than are to be trained.
        MissingSplit: a task has no such split as is to be measured.
    """
    env, count = resolved.components["env"], selection.first_tasks
    if count is not None:
        if count > len(tasks):
            raise OptionError(
                f"{env.owner} has {counted(len(tasks), 'task')}, fewer than --first-tasks {count}; pass at "
                f"most --first-tasks {len(tasks)}"
            )
        tasks = tasks[:count]
    if selection.measure != "test":
        lacking = {task.id: task.splits for task in tasks if selection.measure not in task.splits}
        if lacking:
            raise missing_split(env.owner, lacking, [info.name for info in describe(type(env.config))])
    return tasks


def task_facts(resolved: ResolvedRun, selection: Selection) -> TaskFacts:
    """Read the data of an env, for the facts about its tasks.

    Raises:
        DataError: the data is missing or invalid.
        OptionError: see `selected_tasks`.
    """
    with chdir("."), closing(build_stream(resolved)) as stream:
        tasks = selected_tasks(stream.tasks(), selection, resolved)
        return TaskFacts(
            len(tasks),
            tuple(task.metric for task in tasks),
            tuple(task.higher_is_better for task in tasks),
        )
