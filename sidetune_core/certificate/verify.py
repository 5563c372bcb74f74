"""Checking a certificate from the run folder alone: hashes of checkpoints, and replays of probes; and with
them everything that a reader of the folder reads (see `accounts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import attrs
from torch import nn

from sidetune_core import hashing
from sidetune_core.assembly.cards import CardStream, DataNeeded
from sidetune_core.assembly.objects import require_network
from sidetune_core.assembly.parts import Part, open_tasks, read_parts
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.restore import choose_machine, read_resolved, restore
from sidetune_core.certificate import accounts, probes
from sidetune_core.certificate.carried import check_carried
from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.certificate.conditions import Conditions, conditions, history, of_run, running_as
from sidetune_core.certificate.issue import State, compare
from sidetune_core.certificate.measured import Columns, read_columns
from sidetune_core.certificate.probes import Replay, Stored
from sidetune_core.certificate.record import FORMAT, Certificate, Change, Probes, TaskRecord
from sidetune_core.certificate.repair import missing_certificate
from sidetune_core.certificate.sketches import tasks_without_data
from sidetune_core.certificate.verdicts import (
    CONDITIONS,
    INCOMPLETE,
    OUTSIDE,
    ZERO,
    former_judge,
    is_constant,
    judge,
    overall,
)
from sidetune_core.config.extensions import extension_lines
from sidetune_core.config.given import as_objects
from sidetune_core.config.plugin_record import recorded_changes
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.errors import RunError, WeightsError, shorten
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.io.printable import counted
from sidetune_core.storage import checkpoint
from sidetune_core.storage.compaction import KEEP_LAST
from sidetune_core.storage.run_files import PROBES
from sidetune_core.storage.run_folder import RunFolder, open_run
from sidetune_core.storage.series import Recorded, Series, changed_tensors, inner_tensors
from sidetune_core.storage.unusable import Unusable
from sidetune_core.system.device import Machine

Checkpoints = Mapping[int, Recorded]
"""By number of trained tasks."""


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
    if problems := list(_contradictions(certificate)):
        return Verification(certificate, tuple(problems), (), contradicted=True)
    stored: dict[str, Stored] = {}
    counts = dict.fromkeys(task.after for task in certificate.tasks)
    series = Series({count: checkpoint.boundary(folder.checkpoints, count) for count in counts})
    checkpoints = series.by_count
    dropped = series.check()
    problems += [*series.problems(), *_other_tasks(certificate, checkpoints)]
    for task in certificate.tasks:
        try:
            stored[task.id] = _read_probes(folder, task)
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
    others += _check_dropped(folder, dropped, notes)
    problems += _hash_mismatches(certificate, checkpoints)
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
    problems += _replay_mismatches(
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


def _contradictions(certificate: Certificate) -> Iterator[str]:
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


def _other_tasks(certificate: Certificate, checkpoints: Checkpoints) -> Iterator[str]:
    """Checkpoints that are of other tasks than the certificate."""
    for count, one in checkpoints.items():
        expected = certificate.trained[:count]
        if one.done != expected:
            yield (
                f"{one.path} is the checkpoint after tasks {', '.join(one.done)}; the certificate has "
                f"{', '.join(expected)}"
            )


def _check_dropped(
    folder: RunFolder, dropped: Mapping[str, Sequence[str]], notes: list[str]
) -> Iterator[str]:
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


def _read_probes(folder: RunFolder, task: TaskRecord) -> Stored:
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


def _hash_mismatches(certificate: Certificate, checkpoints: Checkpoints) -> Iterator[str]:
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


def _replay_mismatches(
    folder: RunFolder,
    resolved: ResolvedRun,
    certificate: Certificate,
    checkpoints: Checkpoints,
    stored: Mapping[str, Stored],
    notes: list[str],
    changed_plugins: Sequence[str],
    trust_local_code: bool,
) -> Iterator[str]:
    """Where the learner, rebuilt from the newest checkpoint, contradicts the certificate."""
    machine = choose_machine(resolved)
    count = len(certificate.trained)
    recorded = of_run(folder.read_json("run.json"), checkpoints[count].identity, certificate.processor)
    newest = checkpoints[count]
    try:
        learner, tasks = _restore(
            folder,
            read_parts(folder, resolved, trust_local_code),
            certificate,
            newest.chain.state()[0],
            str(newest.path),
            machine,
        )
    except (WeightsError, Unusable) as error:
        yield str(error)
        return
    tensors = dict(probes.named_tensors(learner))
    now = hashing.digests(tensors)
    names = sorted(now.keys() | certificate.now.keys())
    if wrong := [name for name in names if now.get(name) != certificate.now.get(name)]:
        yield (
            f"the learner of the newest checkpoint has other hashes than the certificate for {shorten(wrong)}"
        )
    columns = read_columns(folder, certificate.trained)
    with running_as(recorded):
        present = conditions(machine)
        exact = _is_exact(recorded, present, changed_plugins, notes)
        rounding = max(probes.ROUNDING[one.precision] for one in (recorded, present))
        past = history(
            certificate.tasks,
            {after: one.identity for after, one in checkpoints.items()},
            {count: certificate.processor},
        )
        stages = certificate.stages
        numbers = {id: number for number, stage in enumerate(stages) for id in stage.tasks}
        for task in certificate.tasks:
            predict = make_predict(learner, tasks[task.id], machine)
            before = stored[task.id]
            replayed = probes.replay(learner, predict, before.as_inputs(), rounding, task.id)
            later = stages[numbers[task.id] + 1 :]
            state = State(tensors, now, later, past.rounding(task.after, rounding))
            changed = past.changes(task.after)
            yield from _task_mismatches(
                task,
                before,
                replayed,
                columns,
                state,
                checkpoints[task.after],
                certificate.format,
                exact,
                changed,
                notes,
            )


def _is_exact(
    recorded: Conditions, present: Conditions, changed_plugins: Sequence[str], notes: list[str]
) -> bool:
    """Whether outputs are to be those of the run bit for bit; otherwise a note says why not."""
    differences = [*recorded.differences(present), *changed_plugins]
    if differences:
        notes.append(f"outputs are compared up to rounding, since the run had {'; '.join(differences)}")
    return not differences


def _task_mismatches(
    task: TaskRecord,
    before: Stored,
    replayed: Replay,
    columns: Columns,
    state: State,
    checkpoint: Recorded,
    format: int,
    exact: bool,
    changed: list[str],
    notes: list[str],
) -> Iterator[str]:
    """Where the certificate of one task differs from what is recomputed."""
    change = probes.change(before.output, replayed.output)
    if task.probes.same and not exact and change is not None and 0 < change.relative <= state.rounding:
        notes.append(
            f"{task.id}: outputs for its probes differ by {change.absolute:.3g} from the stored ones, which "
            "is as small as rounding"
        )
        replayed = attrs.evolve(replayed, output=before.output)
    rule = judge if format == FORMAT else former_judge
    measured = columns[task.id][task.after - 1 :]
    recomputed = compare(
        attrs.evolve(task, conditions=changed), before, replayed, measured, state, checkpoint.read, rule
    )
    recomputed = attrs.evolve(recomputed, changed=_with_dropped(task, recomputed, checkpoint))
    if format < FORMAT:
        yield from _unsupported_claims(task, recomputed, format)
        recomputed = attrs.evolve(
            recomputed,
            measured=task.measured,
            probes=attrs.evolve(recomputed.probes, finite=True, cause=""),
        )
    elif task.probes.cause == OUTSIDE and task.verdict != ZERO:
        notes.append(f"{task.id}: its outputs cannot be checked, since {recomputed.probes.cause or OUTSIDE}")
        recomputed = attrs.evolve(
            recomputed, probes=attrs.evolve(task.probes, examples=recomputed.probes.examples)
        )
        recomputed = attrs.evolve(recomputed, verdict=rule(recomputed, bool(state.later)), scope="")
    elif task.probes.cause == CONDITIONS and not exact and _is_rounding(change, changed, state):
        kept = attrs.evolve(recomputed.probes, same=task.probes.same, change=task.probes.change)
        recomputed = attrs.evolve(
            recomputed, probes=attrs.evolve(kept, cause=recomputed.probes.cause or CONDITIONS)
        )
        recomputed = attrs.evolve(recomputed, verdict=rule(recomputed, bool(state.later)), scope="")
    yield from _differences(task, recomputed, 0.0 if exact else state.rounding)


def _with_dropped(task: TaskRecord, recomputed: TaskRecord, checkpoint: Recorded) -> dict[str, Change | None]:
    """The recomputed changes, with the certificate's where ``--keep last`` has dropped the earlier tensor."""
    lost = {name for name, change in recomputed.changed.items() if change is None} & task.changed.keys()
    lost -= checkpoint.read(sorted(lost)).keys()
    return {
        name: task.changed[name] if name in lost else change for name, change in recomputed.changed.items()
    }


def _is_rounding(change: Change | None, conditions: Sequence[str], state: State) -> bool:
    """Whether outputs that changed under other conditions did so by no more than rounding."""
    return bool(conditions) and change is not None and change.relative <= state.rounding


def _unsupported_claims(task: TaskRecord, recomputed: TaskRecord, format: int) -> Iterator[str]:
    """Why a claim of a former format, which did not look at R or replay twice, is none."""
    if task.verdict != ZERO:
        return
    reasons = [recomputed.probes.cause] if recomputed.probes.cause else []
    if not is_constant(recomputed.measured):
        reasons.append("R differs or has gaps")
    if not recomputed.probes.finite:
        reasons.append("outputs for its probes are not finite")
    for reason in reasons:
        yield f"{task.id}: a certificate of format {format} claims '{ZERO}', but {reason}"


def _differences(certified: TaskRecord, recomputed: TaskRecord, tolerance: float) -> Iterator[str]:
    """Where the recomputed record of a task differs from the certificate's."""
    task = certified.id
    for field in ("verdict", "scope", "changed", "newly_read", "no_longer_read", "measured"):
        expected, actual = getattr(certified, field), getattr(recomputed, field)
        if expected != actual:
            yield (
                f"{task}: {field.replace('_', ' ')} is {_quote(expected)} in the certificate, but recomputed "
                f"as {_quote(actual)}"
            )
    if certified.processor and certified.conditions != recomputed.conditions:
        yield (
            f"{task}: the conditions that changed since are {_quote(certified.conditions)} in the "
            f"certificate, but {_quote(recomputed.conditions)} in the checkpoints"
        )
    before, now = certified.probes, recomputed.probes
    if before.examples != now.examples:
        yield f"{task}: the certificate has {before.examples} probes, but there are {now.examples}"
    if (before.finite, before.cause) != (now.finite, now.cause):
        yield (
            f"{task}: the certificate says that its outputs are {_health(before)}, but they are "
            f"{_health(now)}"
        )
    if before.change is None or now.change is None:
        agree = before.change == now.change
    else:
        agree = abs(before.change.relative - now.change.relative) <= tolerance
    if before.same != now.same or not agree:
        yield (
            f"{task}: outputs for its probes changed by {_absolute(before.change)} according to the "
            f"certificate, but by {_absolute(now.change)} when replayed"
        )


def _health(examined: Probes) -> str:
    if not examined.finite:
        return "not finite"
    return f"not reproducible ({examined.cause})" if examined.cause else "reproducible"


def _absolute(change: Change | None) -> str:
    return "an unknown amount" if change is None else f"{change.absolute:.3g}"


def _restore(
    folder: RunFolder,
    parts: Sequence[Part],
    certificate: Certificate,
    state: Mapping[str, Any],
    source: str,
    machine: Machine,
) -> tuple[Learner, Mapping[str, Task]]:
    """The learner of a checkpoint and its tasks, without their data if that suffices."""
    resolved = parts[0].resolved
    if tasks := tasks_without_data(folder, parts, certificate):
        try:
            learner = restore(resolved, CardStream(tasks), tasks, state, source, machine)
            return learner, {task.id: task for task in tasks}
        except DataNeeded:
            pass
    with open_tasks(parts) as (stream, available):
        tasks = [task for task in available if task.id in certificate.trained]
        learner = restore(resolved, stream, tasks, state, source, machine)
    return learner, {task.id: task for task in tasks}


def _quote(value: Any) -> str:
    """A field of a record for a message."""
    return (
        shorten([str(entry) for entry in value]) or "nothing"
        if isinstance(value, dict | list)
        else f"'{value}'"
    )
