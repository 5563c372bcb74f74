"""Whether an extension meets the data of earlier tasks with other content, as where a folder has grown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sidetune_core.assembly.data import record_data
from sidetune_core.assembly.parts import Part
from sidetune_core.config.data_record import (
    DataRecord,
    find,
    of_parts,
    of_task,
    part_changes,
    shorten_changes,
    tasks_of,
)
from sidetune_core.config.given import has_object
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.storage.data_file import read_data
from sidetune_core.storage.run_folder import RunFolder


def earlier_changes(
    folder: RunFolder, parts: Sequence[Part], resolved: ResolvedRun, stream: TaskStream, tasks: Iterable[Task]
) -> list[str]:
    """What has changed in the data of tasks that the run has from the same env with the same options, in a
    line; empty if nothing has, or if that is unknown.

    Args:
        folder: of the run.
        parts: of the run, before the extension.
        resolved: the run with the env of the extension.
        stream: this env, after its `tasks`.
        tasks: all tasks of this env, under its ids.
    """
    env = resolved.components["env"]
    if has_object(resolved, "env"):  # tasks that Python adds are new, also with an id that an earlier one has
        return []
    same = [
        number
        for number, part in enumerate(parts)
        if part.resolved.components["env"].choice == env.choice
        and part.resolved.components["env"].config == env.config
    ]
    if not same or not stream.data_fingerprint():
        return []
    records = read_data(folder)
    now = record_data(stream, list(tasks), {}, 0, env.owner)
    changes: list[str] = []
    for number in same:
        before = _latest(records, number, now.fingerprint)
        if before is None:
            continue
        own = [task for task in parts[number].tasks.values() if task in tasks_of(before)]
        for task in own:
            if task in tasks_of(now):
                changes += part_changes(of_task(before, task), of_task(now, task))
        if not own:  # names without tasks: classes that are new are those of new tasks
            changes += part_changes(before, of_parts(now, before.parts))
    if not changes:
        return []
    return [
        f"the data of earlier tasks have changed since they were trained: {shorten_changes(changes)}; these "
        "tasks are not trained again"
    ]


def _latest(records: Sequence[DataRecord], extension: int, fingerprint: str) -> DataRecord | None:
    """The latest record of a part of the run; None if it is of the same data."""
    if find(records, extension, fingerprint) is not None:
        return None
    own = [record for record in records if record.extension == extension]
    return own[-1] if own else None
