"""Continuing a certificate that may be damaged: records are kept if their probes are as they were written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import attrs

from sidetune_core import hashing
from sidetune_core.certificate.certificate_file import FILE, LOG, read_certificate, read_written
from sidetune_core.certificate.log import CertificateLog
from sidetune_core.certificate.record import Certificate, Stage, TaskRecord
from sidetune_core.certificate.statements import STATEMENT
from sidetune_core.certificate.verdicts import INCOMPLETE
from sidetune_core.errors import RunError, shorten
from sidetune_core.storage import checkpoint
from sidetune_core.storage.chain import Chain
from sidetune_core.storage.run_folder import RunFolder


def load(
    folder: RunFolder, done: Sequence[str], chain: Chain, warning: Callable[[str], None]
) -> CertificateLog:
    """The certificate so far, as `issue.certify` continues it.

    Of a run of an earlier version it is that of ``certificate.json``. If what there is cannot be used, it is
    one without records, and the verdict on the run is `INCOMPLETE` from then on. A record whose probes have
    changed since they were written is dropped when they are to be replayed.

    Args:
        folder: of the run.
        done: ids of the tasks that are trained.
        chain: the run's checkpoints.
        warning: gets a line for each loss.
    """
    if not done:
        return CertificateLog()
    try:
        log = CertificateLog.read(folder)
    except RunError as error:
        log = None
        warning(str(error))
    if log is not None and log.trained == list(done):
        return log
    with suppress(OSError):  # its lines are of other stages; the next one has them all
        (folder.path / LOG).unlink(missing_ok=True)
    return CertificateLog(_former(folder, done, chain, warning))


def missing(folder: RunFolder) -> list[str]:
    """A line for each file of a certificate that is gone, although the run folder refers to it.

    Raises:
        RunError: the certificate is damaged.
    """
    if lost := missing_certificate(folder):
        return [lost]
    certificate = read_certificate(folder)
    files = [record.probes.file for record in certificate.tasks] if certificate is not None else []
    return [
        f"{file} is missing, although {FILE} has its hash"
        for file in files
        if not (folder.path / file).is_file()
    ]


def missing_certificate(folder: RunFolder) -> str:
    """A line if ``certificate.json`` is gone, although the newest checkpoint has its hash; empty if not."""
    newest = checkpoint.latest(folder.checkpoints)
    if (folder.path / FILE).is_file() or newest is None or not checkpoint.has_mark(newest, FILE):
        return ""
    return f"{FILE} is missing, although the newest checkpoint has its hash"


def _former(
    folder: RunFolder, done: Sequence[str], chain: Chain, warning: Callable[[str], None]
) -> Certificate:
    """The certificate in ``certificate.json``; one without records if it is missing or damaged."""
    try:
        existing = read_written(folder)
        reason = f"{folder.path / FILE} is missing"
    except RunError as error:
        existing, reason = None, str(error)
    if existing is not None and existing.trained[: len(done)] == list(done):
        if existing.trained == list(done):
            return existing
        tasks = [record for record in existing.tasks if record.id in done]
        stages = [stage for stage in existing.stages if set(stage.tasks) <= set(done)]
        return attrs.evolve(existing, tasks=tasks, stages=stages, now=chain.digests)
    warning(f"{reason}; it is rebuilt without records of {shorten(done)}")
    return Certificate(STATEMENT, INCOMPLETE, [], [], list(_stages(folder, done)), chain.digests)


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


def damage(folder: RunFolder, record: TaskRecord) -> str:
    """Why the probes of a task cannot be used; empty if they can."""
    path = folder.path / record.probes.file
    try:
        digest = hashing.file_digest(path)
    except OSError as error:
        return f"cannot read the probes {path}: {error.strerror or error}"
    return "" if digest == record.probes.sha256 else f"the probes {path} have changed since they were written"
