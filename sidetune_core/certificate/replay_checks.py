"""Whether the learner of the newest checkpoint, rebuilt, has the outputs that the certificate records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sidetune_core import hashing
from sidetune_core.assembly.cards import CardStream, DataNeeded
from sidetune_core.assembly.parts import Part, open_tasks, read_parts
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.restore import choose_machine, restore
from sidetune_core.certificate import probes
from sidetune_core.certificate.conditions import Conditions, conditions, history, of_run, running_as
from sidetune_core.certificate.folder_checks import Checkpoints
from sidetune_core.certificate.issue import State
from sidetune_core.certificate.measured import read_columns
from sidetune_core.certificate.probes import Stored
from sidetune_core.certificate.record import Certificate
from sidetune_core.certificate.record_checks import task_mismatches
from sidetune_core.certificate.sketches import tasks_without_data
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.errors import WeightsError, shorten
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.unusable import Unusable
from sidetune_core.system.device import Machine


def replay_mismatches(
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
            yield from task_mismatches(
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
