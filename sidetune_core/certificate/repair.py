"""Continuing a certificate that may be damaged: records are kept if their probes are as they were written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from sidetune_core import hashing
from sidetune_core.certificate.record import (
    FILE,
    INCOMPLETE,
    STATEMENT,
    Certificate,
    Stage,
    TaskRecord,
    read_certificate,
    write_certificate,
)
from sidetune_core.errors import RunError, shorten
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import RunFolder


def repair(folder: RunFolder, done: Sequence[str], warning: Callable[[str], None]) -> None:
    """Bring ``certificate.json`` into a state that `issue.certify` can continue.

    A file that is missing or damaged is replaced by one without records, and a record whose probes have
    changed since they were written is dropped. The verdict on the run is `INCOMPLETE` from then on.

    Args:
        folder: of the run.
        done: ids of the tasks before the stage that `certify` is called for.
        warning: gets a line for each loss.

    Raises:
        WriteError: the file cannot be written.
    """
    if not done:
        return
    existing = _read(folder, done, warning)
    kept = []
    for record in existing.tasks:
        reason = _damage(folder, record) if record.id in done else ""
        if reason:
            warning(f"{reason}; {FILE} has no record of {record.id} any more")
        else:
            kept.append(record)
    if len(kept) < len(existing.tasks):
        existing = attrs.evolve(existing, verdict=INCOMPLETE, tasks=kept)
        write_certificate(folder, existing)


def missing(folder: RunFolder) -> list[str]:
    """A line for each file of a certificate that is gone, although the run folder refers to it.

    Raises:
        RunError: the certificate is damaged.
    """
    certificate = read_certificate(folder)
    if certificate is None:
        newest = checkpoint.latest(folder.checkpoints)
        gone = newest is not None and checkpoint.has_mark(newest, FILE)
        return [f"{FILE} is missing, although the newest checkpoint has its hash"] if gone else []
    files = [record.probes.file for record in certificate.tasks]
    return [
        f"{file} is missing, although {FILE} has its hash"
        for file in files
        if not (folder.path / file).is_file()
    ]


def _read(folder: RunFolder, done: Sequence[str], warning: Callable[[str], None]) -> Certificate:
    """The certificate so far; a new one without records if it is missing or damaged."""
    try:
        existing = read_certificate(folder)
        reason = f"{folder.path / FILE} is missing"
    except RunError as error:
        existing, reason = None, str(error)
    if existing is not None:
        return existing
    warning(f"{reason}; it is rebuilt without records of {shorten(done)}")
    rebuilt = Certificate(STATEMENT, INCOMPLETE, [], [], list(_stages(folder, done)), {})
    write_certificate(folder, rebuilt)
    return rebuilt


def _stages(folder: RunFolder, done: Sequence[str]) -> list[Stage]:
    """The stages so far, one for each task, with what ``moved.jsonl`` says that they changed."""
    stages, before = [], set[str]()
    lines = {str(line.get("task")): line for line in folder.lines("moved.jsonl")}
    for task in done:
        line = lines.get(task, {})
        changed = set(map(str, line.get("moved", ())))
        if isinstance(kept := line.get("kept"), list):  # earlier versions listed all names
            names = changed | set(map(str, kept))
            new, gone = names - before, before - names
        else:
            new, gone = (set(map(str, line.get(key, ()))) for key in ("new", "gone"))
        stages.append(Stage([task], sorted((changed - new) | gone)))
        before = (before | new) - gone
    return stages


def _damage(folder: RunFolder, record: TaskRecord) -> str:
    """Why the probes of a task cannot be used; empty if they can."""
    path = folder.path / record.probes.file
    try:
        digest = hashing.file_digest(path)
    except OSError as error:
        return f"cannot read the probes {path}: {error.strerror or error}"
    return "" if digest == record.probes.sha256 else f"the probes {path} have changed since they were written"
