"""Whether the files of a run folder agree with each other: what the run reports, against the hashes and the
identity that its checkpoints hold, and against its certificate.

A folder in which they agree may still have been rewritten as a whole; `digest` is for publication.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sidetune_core import hashing
from sidetune_core.certificate.carried import statement
from sidetune_core.certificate.certificate_file import FILE, LOG, as_json
from sidetune_core.certificate.log import fold
from sidetune_core.certificate.record import FORMAT, Certificate
from sidetune_core.certificate.statements import FORMER_STATEMENTS, SAMPLED
from sidetune_core.config.history import contradictions, odd_statements
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.storage.run_files import CARDS, DATA, DOCUMENTS, IMAGES, LINES
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.series import Recorded
from sidetune_core.storage.status import DONE, has_diverged, has_ended


def check(
    folder: RunFolder, certificate: Certificate, checkpoints: Sequence[Recorded]
) -> tuple[list[str], list[str]]:
    """Contradictions, and notes on what could not be checked.

    Args:
        folder: of the run.
        certificate: of the run.
        checkpoints: one after each stage, in order.

    Raises:
        RunError: ``run.json`` is missing or damaged.
    """
    about = folder.read_json("run.json")
    notes: list[str] = []
    whole = len(certificate.trained) == len(about.get("tasks", ()))
    finished = whole or has_ended(_status_text(folder))  # nothing can be newer than the newest checkpoint
    problems = [
        *_status(folder, about, certificate, notes),
        *_lines(folder, checkpoints, finished, notes),
        *_identity(about, checkpoints, notes),
        *_files(folder, certificate, finished, notes),
    ]
    if certificate.format < FORMAT:
        notes.append(
            f"{FILE} has format {certificate.format}: replays in other batches and with another seed, "
            "documents and visualisations could not be checked"
        )
    return problems, notes


def check_composition(folder: RunFolder, resolved: ResolvedRun) -> Iterator[str]:
    """Whether ``composition`` of ``run.json`` is that of its spec."""
    composition = folder.read_json("run.json").get("composition")
    if composition not in (str(resolved), resolved.former_composition):
        yield f"run.json has the composition '{composition}', but its spec is that of '{resolved}'"


def digest(folder: RunFolder, certificate: Certificate, checkpoints: Sequence[Recorded]) -> str:
    """SHA-256 over everything that is checked, in hexadecimal: the same for every copy of a run folder.

    It does not depend on the folder's name, nor on what is only shown: times, log, report, TensorBoard files.
    """
    content = {
        "run": folder.read_json("run.json"),
        "status": _status_text(folder),
        "certificate": folder.read_json(FILE) if _is_written(checkpoints) else as_json(certificate),
        "lines": {name: hashing.file_digest(folder.path / name) for name in _present_lines(folder)},
        "checkpoints": {one.path.stem: one.step.sha256 for one in checkpoints},
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def shown_files(folder: RunFolder) -> dict[str, str]:
    """Task cards, documents and visualisations by path in the run folder, each with the id of its task; and
    the record of the data, with an empty id."""
    cards = [path for path in (folder.path / CARDS).glob("*.json") if path.is_file()]
    documents = [path for path in (folder.path / DOCUMENTS).glob("*/*") if path.is_file()]
    pictures = [path for path in (folder.path / IMAGES).glob("*.png") if path.is_file()]
    owners = [(path, path.parent.name.rpartition("-")[0]) for path in documents]
    owners += [(path, path.stem.rpartition(".")[0]) for path in pictures]
    owners += [(path, path.stem) for path in cards]
    owners += [(path, "") for path in (folder.path / DATA,) if path.is_file()]
    return {
        path.relative_to(folder.path).as_posix(): task
        for path, task in sorted(owners)
        if not path.name.startswith(".")  # unfinished, of a killed process
    }


def file_digests(folder: RunFolder, trained: Collection[str]) -> Iterator[tuple[str, str]]:
    """The SHA-256 of `shown_files` of some tasks, and of the record of the data; those that cannot be read
    are left out."""
    trained = set(trained)
    for name, task in shown_files(folder).items():
        if not task or task in trained:
            digest = digest_of_file(folder, name)
            if digest is not None:
                yield name, digest


def digest_of_file(folder: RunFolder, name: str) -> str | None:
    """The SHA-256 of a file by its path in a run folder; None if it cannot be read."""
    try:
        return hashing.file_digest(folder.path / name)
    except OSError:
        return None


def check_certificate(
    folder: RunFolder, certificate: Certificate, checkpoints: Sequence[Recorded]
) -> Iterator[str]:
    """Whether the certificate explains itself in the words of its format, and is the one of which the newest
    checkpoint holds the hash."""
    folded = fold(folder)
    is_folded = certificate == folded
    expected = FORMER_STATEMENTS.get(certificate.format)
    if expected is None:
        expected = _sha256((statement(folder) + (SAMPLED if is_folded else "")).encode())
    source = LOG if is_folded else FILE
    if _sha256(certificate.statement.encode()) != expected:
        yield f"the statement in {source} is not that of certificates of format {certificate.format}"
    if is_folded and checkpoints and FILE in checkpoints[-1].marks:
        yield f"{FILE} has other tasks than {LOG}"
    if is_folded:
        return  # the checkpoint's hash of the lines is checked with those of other lines
    if folded is not None:
        yield from _contradictions(certificate, folded)
    recorded = checkpoints[-1].marks.get(FILE) if checkpoints else None
    if recorded is not None and hashing.file_digest(folder.path / FILE) != recorded[1]:
        yield f"{FILE} is not what it was {checkpoints[-1]}"
    elif recorded is None and certificate.format == FORMAT:
        yield f"the newest checkpoint has no hash of {FILE}"


def _contradictions(written: Certificate, folded: Certificate) -> Iterator[str]:
    """Where the two files of a certificate differ."""
    for field in ("verdict", "tasks", "stages", "now", "files", "processor"):
        if getattr(written, field) != getattr(folded, field):
            yield f"{FILE} and {LOG} have other {field}"


def _status(
    folder: RunFolder, about: Mapping[str, Any], certificate: Certificate, notes: list[str]
) -> Iterator[str]:
    """Whether the run's status agrees with how far its checkpoints and R have come."""
    status, trained = _status_text(folder), certificate.trained
    tasks = [task.get("id") for task in about.get("tasks", ())]
    gaps = _has_gaps(folder, about)
    if trained != tasks[: len(trained)]:
        yield f"run.json has tasks {', '.join(map(str, tasks))}, but the certificate {', '.join(trained)}"
    elif status == DONE and len(trained) < len(tasks):
        yield f"the status is '{status}', but {len(trained)} of {len(tasks)} tasks have a checkpoint"
    elif status == DONE and gaps:
        yield f"the status is '{status}', but eval.jsonl has values that are not finite"
    elif has_diverged(status) and len(trained) == len(tasks) and not gaps:
        yield f"the status is '{status}', but every value of eval.jsonl is finite"
    elif not has_ended(status):
        notes.append(f"the run is not finished: its status is '{status}'")


def _has_gaps(folder: RunFolder, about: Mapping[str, Any]) -> bool:
    """Whether the metric of an evaluation was recorded as not finite (earlier versions recorded NaN)."""
    metrics = {task.get("id"): task.get("metric", about.get("metric")) for task in about.get("tasks", ())}
    return any(
        line.get("figures", {}).get(metrics.get(line.get("task")), 0) is None
        for line in folder.lines("eval.jsonl")
    )


def _lines(
    folder: RunFolder, checkpoints: Sequence[Recorded], finished: bool, notes: list[str]
) -> Iterator[str]:
    """Whether each ``.jsonl`` file begins with what it had at every checkpoint, and ends there."""
    for name in LINES:
        path = folder.path / name
        content = path.read_bytes() if path.is_file() else b""
        size, running = 0, hashlib.sha256()
        for one in checkpoints:
            before = size
            size, recorded = one.marks.get(name, (0, _sha256(b"")))
            running.update(content[before:size])
            if running.hexdigest() != recorded or not before <= size <= len(content):
                yield f"{name} is not what it was {one}: lines were changed or are missing"
                break
        else:
            if len(content) > size and finished:
                yield f"{name} has lines that no checkpoint of the run knows"
            elif len(content) > size:
                notes.append(f"the last lines of {name} are newer than the newest checkpoint")


def _identity(about: Mapping[str, Any], checkpoints: Sequence[Recorded], notes: list[str]) -> Iterator[str]:
    """Whether ``run.json`` describes the run that each checkpoint was made by."""
    unknown = [one for one in checkpoints if one.identity is None]
    if unknown:
        notes.append(
            f"checkpoints of earlier versions ({len(unknown)} of {len(checkpoints)}) do not record spec, "
            "tasks, plugins, versions and threads: run.json could not be checked against them"
        )
    else:
        yield from odd_statements(about)
    reported: set[str] = set()
    for one in checkpoints:
        found = contradictions(about, one.identity, len(one.done)) if one.identity is not None else []
        for fact in found:
            if fact not in reported:
                yield f"run.json has other {fact} than the checkpoint {one}"
        reported.update(found)


def _files(folder: RunFolder, certificate: Certificate, finished: bool, notes: list[str]) -> Iterator[str]:
    """Whether task cards, documents and visualisations are those that the certificate lists."""
    if certificate.format < FORMAT:
        return
    changed = [
        name
        for name, sha256 in certificate.files.items()
        if not (folder.path / name).is_file() or hashing.file_digest(folder.path / name) != sha256
    ]
    added = [
        name
        for name, task in shown_files(folder).items()
        if name not in certificate.files and not (name.startswith(CARDS) and task not in certificate.trained)
    ]
    kinds = "task cards, documents or visualisations are"
    for names, what in ((changed, "changed or missing"), (added, "not those of the last stage")):
        if DATA in names and finished:
            yield f"the record of the data, {DATA}, is {what}"
        names = [name for name in names if name != DATA or not finished]
        if names and finished:
            yield f"{kinds} {what}: {', '.join(names[:3])}"
        elif names:
            notes.append(f"{kinds} newer than the certificate: {', '.join(names[:3])}")


def _is_written(checkpoints: Sequence[Recorded]) -> bool:
    """Whether ``certificate.json`` is that of the newest checkpoint, or the run has no other."""
    marks = checkpoints[-1].marks if checkpoints else {}
    return FILE in marks or LOG not in marks


def _present_lines(folder: RunFolder) -> list[str]:
    return [name for name in LINES if (folder.path / name).is_file()]


def _status_text(folder: RunFolder) -> str:
    path = folder.path / "status"
    return path.read_text(encoding="utf-8", errors="backslashreplace").strip() if path.is_file() else ""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
