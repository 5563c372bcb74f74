"""The record of an env's data: their fingerprints, and the parts that they consist of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sidetune_core.config.data_record import DataRecord, make_record
from sidetune_core.interfaces.capabilities import HasDataParts
from sidetune_core.interfaces.tasks import DataPart, Task, TaskStream


def record_data(
    stream: TaskStream, tasks: Sequence[Task], ids: Mapping[str, str], extension: int, env: str
) -> DataRecord:
    """The record of the data that an env has read.

    Args:
        stream: the env, after its `tasks`.
        tasks: those that the run has.
        ids: the id in the env of each task, by its id in the run.
        extension: 0 for the env that the run began with, k for that of its k-th extension.
        env: its title, such as ``env 'images'``.
    """
    fingerprint = stream.data_fingerprint()
    if not fingerprint:
        return DataRecord(extension, env, "")
    parts: Mapping[str, DataPart] = stream.data_parts() or {
        f"{ids.get(task.id, task.id)}/{name}": part
        for task in tasks
        if isinstance(task, HasDataParts)
        for name, part in task.data_parts().items()
    }
    return make_record(extension, env, fingerprint, stream.content_fingerprint(), parts)
