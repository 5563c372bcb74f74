"""Checks of the tasks that an env gives, before a run folder is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from sidetune_core.errors import RunError
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage.file_names import check_file_names, ignores_case
from sidetune_core.storage.new_run import RUNS
from sidetune_core.training.job import Job
from sidetune_core.training.within_task import check_val


def check_tasks(job: Job, path: Path | None) -> None:
    """Check the tasks of a new run.

    Args:
        job: of the run.
        path: its folder; None for a new one in ``runs/``.

    Raises:
        PluginError: see `check_names`.
        RunError: there are no tasks, R cannot hold their metrics, or a split is missing.
    """
    owner = job.resolved.components["env"].owner
    if not job.tasks:
        raise RunError(f"{owner} has no tasks")
    same_case = ignores_case(path if path is not None else RUNS)
    check_names(job.tasks, owner, same_case)
    if len({task.higher_is_better for task in job.tasks}) > 1:
        raise RunError(f"{owner} mixes metrics where higher is better and where lower is; R cannot hold both")
    config = job.resolved.components["env"].cls.Config
    has_fraction = any(field.name == "val_fraction" for field in attrs.fields(config))
    check_val(job.tasks, job.resolved.train, has_fraction)


def check_names(tasks: Sequence[Task], owner: str, same_case: bool) -> None:
    """Check the ids and splits of an env's tasks.

    Args:
        tasks: of the env.
        owner: the env, for messages.
        same_case: see `file_names.ignores_case`.

    Raises:
        PluginError: a name is no file name, or two are the same.
        RunError: a task has no split 'test'.
    """
    check_file_names([task.id for task in tasks], f"{owner} gives a task", same_case)
    for task in tasks:
        if isinstance(task.splits, str) or "test" not in task.splits:
            raise RunError(
                f"{owner}: task '{task.id}' has splits {task.splits!r}; it needs a tuple of names with "
                "'test', on which R is measured"
            )
        check_file_names(task.splits, f"{owner} gives a split of task '{task.id}'", same_case)
