"""``data.json`` of a run folder: what the data of each env of the run consisted of when they were read."""

from __future__ import annotations

from collections.abc import Sequence

from sidetune_core.config.data_record import DataRecord, find, read_records
from sidetune_core.errors import RunError
from sidetune_core.storage.run_files import DATA
from sidetune_core.storage.run_folder import RunFolder


def read_data(folder: RunFolder) -> list[DataRecord]:
    """The records of a run; none if an earlier version made it or the file is damaged."""
    if not (folder.path / DATA).is_file():
        return []
    try:
        return read_records(folder.read_json(DATA))
    except RunError:
        return []


def add_data(folder: RunFolder, records: Sequence[DataRecord]) -> None:
    """Add records of data that have a fingerprint and are not yet recorded.

    Raises:
        WriteError: the file cannot be written.
    """
    recorded = read_data(folder)
    new = [
        record
        for record in records
        if record.fingerprint and find(recorded, record.extension, record.fingerprint) is None
    ]
    if new:
        _write(folder, [*recorded, *new])


def drop_data(folder: RunFolder, extension: int) -> None:
    """Drop the records of an extension that is replaced.

    Raises:
        WriteError: the file cannot be written.
    """
    recorded = read_data(folder)
    kept = [record for record in recorded if record.extension != extension]
    if len(kept) < len(recorded):
        _write(folder, kept)


def _write(folder: RunFolder, records: Sequence[DataRecord]) -> None:
    folder.write_json(DATA, {"records": [record.to_json() for record in records]})
