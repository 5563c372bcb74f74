"""Whether a certificate is consistent, and is that of the checkpoints and probes in its run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

from sidetune_core import hashing
from sidetune_core.certificate.probes import Stored
from sidetune_core.certificate.record import Certificate, TaskRecord
from sidetune_core.certificate.verdicts import INCOMPLETE, overall
from sidetune_core.errors import RunError, shorten
from sidetune_core.io.printable import counted
from sidetune_core.storage.compaction import KEEP_LAST
from sidetune_core.storage.run_files import PROBES
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.series import Recorded, changed_tensors, inner_tensors

Checkpoints = Mapping[int, Recorded]
"""By number of trained tasks."""


def self_contradictions(certificate: Certificate) -> Iterator[str]:
    """Where the certificate contradicts itself."""
    verdict = overall(certificate.trained, certificate.tasks)
    if verdict != certificate.verdict:
        yield (
            f"the certificate's verdict is '{certificate.verdict}', but the verdicts on its tasks amount to "
            f"'{verdict}'"
        )
    recorded = {task.id for task in certificate.tasks}
    if missing := [task for task in certificate.trained if task not in recorded]:
        yield f"{INCOMPLETE}: {shorten(missing)}"
        return
    counts = accumulate(len(stage.tasks) for stage in certificate.stages)
    ends = [
        (task, count) for stage, count in zip(certificate.stages, counts, strict=True) for task in stage.tasks
    ]
    if ends != [(task.id, task.after) for task in certificate.tasks]:
        yield "the certificate's list of tasks contradicts its list of stages"


def other_tasks(certificate: Certificate, checkpoints: Checkpoints) -> Iterator[str]:
    """Checkpoints that are of other tasks than the certificate."""
    for count, one in checkpoints.items():
        expected = certificate.trained[:count]
        if one.done != expected:
            yield (
                f"{one.path} is the checkpoint after tasks {', '.join(one.done)}; the certificate has "
                f"{', '.join(expected)}"
            )


def check_dropped(folder: RunFolder, dropped: Mapping[str, Sequence[str]], notes: list[str]) -> Iterator[str]:
    """Whether the run was to drop the tensors that its files no longer have; a note says what they were."""
    if not dropped:
        return
    if folder.read_json("run.json").get("keep") != KEEP_LAST:
        for name, lost in dropped.items():
            yield f"{name}.safetensors lacks {shorten(lost)}, but run.json does not state --keep last"
        return
    tensors = counted(sum(map(len, dropped.values())), "tensor")
    notes.append(
        f"{tensors} of {shorten(dropped)} that later tasks changed were dropped (--keep last): their SHA-256 "
        "are recorded, but how far they changed is not recomputed"
    )


def read_probes(folder: RunFolder, task: TaskRecord) -> Stored:
    """The probes of a task.

    Raises:
        RunError, WeightsError: their file is missing or has changed.
    """
    path = folder.path / task.probes.file
    if task.probes.file != f"{PROBES}/{task.id}.safetensors":
        raise RunError(f"the certificate names '{task.probes.file}' as its file of probes")
    if path.is_file() and hashing.file_digest(path) != task.probes.sha256:
        raise RunError(f"the probes {path} have changed since they were written")
    return Stored.read(path)


def hash_mismatches(certificate: Certificate, checkpoints: Checkpoints) -> Iterator[str]:
    """Where the checkpoints' hashes differ from the certificate's."""
    for task in certificate.tasks:
        one = checkpoints[task.after]
        recorded = task.all_tensors.items()
        wrong = [name for name, digest in recorded if one.digest(name) not in (None, digest)]
        if wrong:
            yield f"{task.id}: its checkpoint has other hashes than the certificate for {shorten(wrong)}"
    inner = inner_tensors([one.chain for one in checkpoints.values()])
    for stage, (before, after) in zip(certificate.stages[1:], pairwise(checkpoints.values()), strict=True):
        existing = {name for name in stage.changed if before.digest(name) is not None}
        wrong = sorted(changed_tensors(before, after, inner) ^ existing)
        if wrong:
            yield (
                f"{', '.join(stage.tasks)}: the checkpoints contradict the certificate about whether this "
                f"stage changed {shorten(wrong)}"
            )
