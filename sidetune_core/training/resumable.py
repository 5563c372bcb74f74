"""A run folder that can be resumed, and what its ``run.json`` says of how it was run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidetune_core.config.interval import Interval, interval
from sidetune_core.errors import OptionError, RunError
from sidetune_core.storage import checkpoint
from sidetune_core.storage.compaction import KEEP_LAST, Keep
from sidetune_core.storage.own_files import check_own
from sidetune_core.storage.run_folder import RunFolder, open_run
from sidetune_core.training.execution import SAVE_EVERY


def recorded_keep(about: Mapping[str, Any]) -> Keep:
    """What earlier checkpoints keep, as the run was begun."""
    return KEEP_LAST if about.get("keep") == KEEP_LAST else "all"


def open_resumable(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """A run that can be resumed, and its ``run.json``."""
    folder = open_run(path)
    check_own(folder)
    checkpoint.check_version(folder.checkpoints)
    about = folder.read_json("run.json")
    if missing := _missing(about):
        raise RunError(f"{folder.path / 'run.json'} is damaged: it has no {missing}. Restore it from a copy")
    return folder, about


def _missing(about: Mapping[str, Any]) -> str:
    """What ``run.json`` lacks of what a run needs to be resumed and reported; empty if it has everything."""
    tasks, metric = about.get("tasks"), about.get("metric")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        return "list of tasks"
    if not all(isinstance(task.get("id"), str) for task in tasks):
        return "id of each task"
    if not all(isinstance(name, str) for name in (metric, *(task.get("metric", metric) for task in tasks))):
        return "metric of each task"
    if not isinstance(about.get("higher_is_better"), bool):
        return "direction of the metric (higher_is_better)"
    return "" if isinstance(about.get("composition"), str) else "composition"


def recorded_interval(folder: RunFolder, about: Mapping[str, Any]) -> Interval:
    """How often the run saves its state, as it was begun."""
    recorded = about.get("save_every", SAVE_EVERY)
    try:
        return interval(recorded if isinstance(recorded, str) else repr(recorded))
    except OptionError as error:
        raise RunError(
            f"{folder.path / 'run.json'} is damaged: its save_every is {recorded!r}. Give --save-every"
        ) from error
