"""Checking a certificate from the run folder alone: hashes of checkpoints, and replays of probes; and with
them everything that a reader of the folder reads (see `accounts`).
"""

from __future__ import annotations

from pathlib import Path

import attrs
from torch import nn

from sidetune_core.assembly.objects import require_network
from sidetune_core.assembly.restore import read_resolved
from sidetune_core.certificate import accounts
from sidetune_core.certificate.carried import check_carried
from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.certificate.folder_checks import (
    check_dropped,
    hash_mismatches,
    other_tasks,
    read_probes,
    self_contradictions,
)
from sidetune_core.certificate.probes import Stored
from sidetune_core.certificate.record import Certificate
from sidetune_core.certificate.repair import missing_certificate
from sidetune_core.certificate.replay_checks import replay_mismatches
from sidetune_core.config.extensions import extension_lines
from sidetune_core.config.given import as_objects
from sidetune_core.config.plugin_record import recorded_changes
from sidetune_core.errors import RunError, WeightsError
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import RunFolder, open_run
from sidetune_core.storage.series import Series


@attrs.frozen
class Verification:
    """The result of checking a certificate."""

    certificate: Certificate
    problems: tuple[str, ...]
    """Contradictions between the files of the folder; none if the certificate holds."""
    notes: tuple[str, ...]
    """Remarks that are no contradiction."""
    contradicted: bool = False
    """Whether the problems are those of the certificate, and not of the rest of the folder only."""
    cause: str = ""
    """The likely cause of the problems, where plugins are not those that the run was made with."""
    digest: str = ""
    """SHA-256 over everything that was checked (see `accounts.digest`); empty if there are problems."""


def verify(
    run: RunFolder | Path | str, trust_local_code: bool = False, base: nn.Module | None = None
) -> Verification:
    """Check a run's certificate, and what else the run reports, against its checkpoints, its probes and its
    plugins.

    The env's data is needed only if a task has a head that its card does not describe. The components'
    initial weights are not needed. Outputs are compared bit for bit where processor, device, libraries and
    threads are those of the run, otherwise up to rounding.

    Args:
        run: the run, or its folder.
        trust_local_code: import code that ``run.json`` and the data name.
        base: the network that the run was given in Python; None if it has a base by name.

    Raises:
        UntrustedCode: ``run.json`` or the data names code, without `trust_local_code`.
        RunError: the folder has no certificate, or it cannot be read.
        SidetuneError: the run's components can no longer be built.
    """
    folder = run if isinstance(run, RunFolder) else open_run(Path(run))
    if lost := missing_certificate(folder):
        raise RunError(f"{folder.path}: {lost}")
    certificate = read_certificate(folder)
    if certificate is None:
        raise RunError(
            f"{folder.path} has no certificate: no task was trained, or an older sidetune made the run"
        )
    if problems := list(self_contradictions(certificate)):
        return Verification(certificate, tuple(problems), (), contradicted=True)
    stored: dict[str, Stored] = {}
    counts = dict.fromkeys(task.after for task in certificate.tasks)
    series = Series({count: checkpoint.boundary(folder.checkpoints, count) for count in counts})
    checkpoints = series.by_count
    dropped = series.check()
    problems += [*series.problems(), *other_tasks(certificate, checkpoints)]
    for task in certificate.tasks:
        try:
            stored[task.id] = read_probes(folder, task)
        except (RunError, WeightsError) as error:
            problems.append(f"{task.id}: {error}")
    newest = checkpoint.latest(folder.checkpoints)
    if newest is not None and newest != checkpoint.boundary(folder.checkpoints, len(certificate.trained)):
        problems.append(
            f"the newest checkpoint is {newest}, but the certificate was issued after "
            f"{', '.join(certificate.trained)}"
        )
    if problems:
        return Verification(certificate, tuple(problems), (), contradicted=True)
    problems = list(accounts.check_certificate(folder, certificate, list(checkpoints.values())))
    others, notes = accounts.check(folder, certificate, list(checkpoints.values()))
    others += check_dropped(folder, dropped, notes)
    problems += hash_mismatches(certificate, checkpoints)
    problems += check_carried(
        folder, certificate, {count: one.identity for count, one in checkpoints.items()}
    )
    resolved = read_resolved(folder, trust_local_code, as_objects(base))
    require_network(resolved, f"sidetune_core.verify({str(folder.path)!r}")
    others += accounts.check_composition(folder, resolved)
    changes = resolved.plugin_changes()
    notes += [f"another plugin is installed than the run was made with: {change}" for change in changes]
    about = folder.read_json("run.json")
    notes += [f"the run noted: {line}" for line in (*extension_lines(about), *recorded_changes(about))]
    problems += replay_mismatches(
        folder,
        resolved,
        certificate,
        checkpoints,
        stored,
        notes,
        [str(change) for change in changes],
        trust_local_code,
    )
    contradicted = bool(problems)
    problems = [*others, *problems]
    cause = ""
    if problems and changes:
        cause = f"{'; '.join(map(str, changes))}. To verify what the run was made with: {changes[0].remedy}"
    digest = "" if problems else accounts.digest(folder, certificate, list(checkpoints.values()))
    return Verification(certificate, tuple(problems), tuple(notes), contradicted, cause, digest)
