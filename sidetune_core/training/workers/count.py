"""How many processes train the stages of a run, and whether they can."""

from __future__ import annotations

import os
from typing import Literal

from sidetune_core.errors import OptionError
from sidetune_core.scenarios import DEFAULT, title
from sidetune_core.system.processors import available
from sidetune_core.system.threads import VARIABLE
from sidetune_core.training.job import Job
from sidetune_core.training.workers.executor import Executor

Count = int | Literal["ray"]
"""A number of processes of this machine, or as many as a Ray cluster has processors."""


def parse_workers(value: int | str) -> Count:
    """What ``--workers`` says.

    Raises:
        OptionError: it is neither a number from 1 on nor ``ray``.
    """
    if value == "ray":
        return "ray"
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or not int(text):
        raise OptionError(f"--workers takes a number of processes (2) or ray, not {value!r}")
    return int(text)


def wanted_threads(workers: Count, chosen: int | None, kept: int = 0) -> int | None:
    """The number of threads of each process of a run; None to choose one for what other processes leave.
    Workers, which train at the same time, adapt nothing.

    Args:
        workers: of the run.
        chosen: ``--device.threads``.
        kept: the number of the run so far; 0 for a new one.
    """
    if workers == 1 or chosen is not None or VARIABLE in os.environ:
        return chosen
    return kept or (1 if workers == "ray" else max(1, available() // workers))


def check_workers(job: Job, workers: Count, done: int = 0) -> None:
    """Check that the tasks of a run can be trained side by side.

    Args:
        job: the run.
        workers: of the run.
        done: number of its tasks that are trained.

    Raises:
        OptionError: they cannot, or not by this kind of processes.
    """
    if workers == 1:
        return
    option, owner = f"--workers {workers}", job.resolved.components["learner"].owner
    if job.group.size > 1:
        raise OptionError(f"{option} and torchrun both start processes; leave out one of them")
    if not job.learner.independent_tasks:
        raise OptionError(
            f"{option} trains tasks side by side, and those of {owner} depend on each other; leave it out. "
            f"Several seeds or options run side by side with: sidetune sweep --seed 0..1 --workers 2"
        )
    if (scenario := job.resolved.scenario) != DEFAULT:
        raise OptionError(
            f"{option} evaluates each task where it was trained, and in the {title(scenario)} scenario "
            "predictions depend on all tasks so far; leave it out"
        )
    if (every := job.resolved.train.eval_every) is not None:
        raise OptionError(
            f"--train.eval-every {every} evaluates the tasks trained so far, which the processes of {option} "
            "do not have; leave out one of them"
        )
    source = job.resolved.train.start_from
    if source is not None and len(job.tasks) > 1 and source not in {task.id for task in job.tasks[:done]}:
        raise OptionError(
            f"--train.start-from {source} begins tasks with what '{source}' has learned, and {option} trains "
            f"'{source}' at the same time as they; train one after another: --workers 1"
        )
    if workers == "ray":
        from sidetune_core.training.workers.ray_workers import check_spec

        check_spec(job)
    else:
        from sidetune_core.training.workers.local_workers import check_forkable

        check_forkable(job, option)


def make_executor(job: Job, workers: Count) -> Executor:
    """The executor for a number of workers.

    Raises:
        PluginError: Ray is not installed.
        OptionError: the Ray cluster cannot be reached.
    """
    if workers == "ray":
        from sidetune_core.training.workers.ray_workers import RayWorkers

        return RayWorkers(job)
    from sidetune_core.training.workers.local_workers import LocalWorkers

    return LocalWorkers(workers)
