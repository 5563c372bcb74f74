"""The loop: one task after another, read from top to bottom. It knows no plugin by name."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from sidetune_core.assembly.predict import make_predict
from sidetune_core.certificate.issue import certify
from sidetune_core.certificate.probes import ProbeRecorder
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Batch, Order, Task, states
from sidetune_core.results.metrics import have_one_unit
from sidetune_core.seeding import derive_seed, seeded
from sidetune_core.storage import checkpoint, images
from sidetune_core.storage.checkpoint import Checkpoint, MidTaskState
from sidetune_core.system.signals import StopRequest
from sidetune_core.training.context import Session
from sidetune_core.training.evaluate import evaluate, evaluate_untrained
from sidetune_core.training.stage import Stage
from sidetune_core.training.steps import batches, train
from sidetune_core.training.trainable import (
    digests,
    freeze,
    record_changed,
    record_parameters,
    set_trainable,
    start_task,
)


def learn(learner: Learner, tasks: Sequence[Task], session: Session) -> None:
    """Learn `tasks` in order, or all at once if the learner says so, from the newest whole state in the run's folder on if there is one.

    Where it goes on, everything is as if it had never stopped: weights, optimiser, generators, the place in the order of examples (a
    function of seed, task and step), the lines of the run folder, and the curves, which are drawn again from those lines. The feature
    store is not restored: it is filled again with the same bits (see `features.Table.lookup`).

    Several processes (see `ProcessGroup`) do the same, but for this: in training each computes its share of a batch, of the tasks that are
    evaluated each evaluates some, and the first one alone reads and writes the run's folder.

    Raises:
        Diverged: the loss stopped being a number; the last checkpoint stays.
        PluginError: the learner returned something from `start` that is not its own.
        Stopped: a signal came; the state is saved.
        WriteError: the run folder cannot be written; what was there stays.
    """
    session.machine.place(learner)
    found = _go_back(learner, tasks, session)
    if found is None:
        evaluate_untrained(learner, tasks, session)
    done = found.done if found else []
    mid_task = found.mid_task if found else None
    stages = [Stage(tasks)] if learner.joint else [Stage([task]) for task in tasks]
    for number, stage in enumerate(stages):
        if stage.last.id in done:
            continue
        began = time.monotonic()
        seen = tasks[: tasks.index(stage.last) + 1]
        trainable = [thing for task in stage.tasks for thing in start_task(learner, task, session)]
        if found is not None and mid_task is not None:
            found.load(learner)
            set_trainable(learner, trainable, session)
        else:
            if number:  # R[j-1][j]: what earlier tasks have taught about this one
                set_trainable(learner, [], session)
                evaluate(stage.tasks, _watched(learner, stage.tasks, session), session, after=number - 1)
            set_trainable(learner, trainable, session)
            mid_task = MidTaskState([task.id for task in stage.tasks], 0, digests(learner))
            record_parameters(learner, stage, session.folder)
        steps = train(learner, stage, seen, mid_task, session)
        freeze(learner)
        session.group.check_replicas_match(learner, f"after {stage.name}")
        _finish(learner, stage, session)
        recorders = _watched(learner, seen, session)
        figures = evaluate(seen, recorders, session, after=len(seen) - 1)
        if session.group.is_main:
            _keep(learner, stage, seen, recorders, mid_task.before, session)
        mid_task = None
        session.clock.note()
        average = (
            f", mean over tasks so far {fmean(figures):.4g}"
            if have_one_unit([task.metric for task in tasks])
            else ""
        )
        session.progress.finish(
            f"task {len(seen)}/{len(tasks)} {stage.last.title}: {stage.last.metric} {figures[-1]:.4g}{average} "
            f"({steps} steps, {time.monotonic() - began:.1f} s)"
        )
    FeatureCache.detach(learner)  # from here on the learner is the user's, who may change the base


def _go_back(learner: Learner, tasks: Sequence[Task], session: Session) -> Checkpoint | None:
    """Bring learner, tasks and folder to the newest whole state; None if there is none, and the run is at its start.

    A state in the middle of a stage is loaded later, when the learner has grown for that.
    """
    folder, group = session.folder, session.group
    found = group.broadcast_from_main(lambda: checkpoint.find(folder.checkpoints, session.progress.warning))
    done = found.done if found else []
    for name in folder.rewind(found.marks if found else {}):
        session.progress.warning(
            f"{folder.path / name} is not what it was when the run came here; what is missing stays missing"
        )
    for line in folder.lines("metrics.jsonl") if group.is_main else ():
        session.draw(line)
    for task_id, name, picture in images.kept(folder) if group.is_main else ():
        session.show(f"{task_id}/{name}", picture, len(done))
    if found is None:
        return None
    for task in tasks[: len(done)]:
        start_task(learner, task, session)
    if found.mid_task is None:
        found.load(learner)
    for task in tasks:
        if task.id in found.tasks:
            task.set_state(found.tasks[task.id])
    session.progress.info(f"going on {found} ({len(done)} of {len(tasks)} tasks are done)")
    if found.mid_task is not None and found.mid_task.optimizer is not None:
        for lost in sorted({task.not_restored for task in tasks if task.id in found.mid_task.tasks} - {""}):
            session.progress.info(lost)
    return found


def _finish(learner: Learner, stage: Stage, session: Session) -> None:
    """Let the learner finish each task, with training batches in an order of their own, which leave the task as it is."""
    for task in stage.tasks:
        order = Order(derive_seed(session.seed, "finish"), session.options.batch_size)
        held = task.state()
        with seeded(session.seed, "finish", task.id):
            learner.finish(task, _until(session.stop, batches(task, learner, session, order)))
        task.set_state(held)
    session.group.broadcast_state(learner)


def _keep(
    learner: Learner,
    stage: Stage,
    seen: Sequence[Task],
    recorders: Mapping[str, ProbeRecorder],
    before: Mapping[str, str],
    session: Session,
) -> None:
    """Write down what has been learnt: pictures, what has moved since the digests `before`, the certificate, and last the checkpoint."""
    folder = session.folder
    if session.store is not None:
        session.store.save()
    for task in seen:
        for name, picture in task.visualisations(make_predict(learner, task, session.machine)).items():
            images.keep(folder, task.id, name, picture)
            session.show(f"{task.id}/{name}", picture, len(seen))
    record_changed(learner, stage, before, folder)
    certify(learner, stage.tasks, recorders, folder)
    checkpoint.save(folder.checkpoints, learner, [task.id for task in seen], folder.marks(), states(seen))
    checkpoint.delete_mid_task(folder.checkpoints)


def _watched(learner: Learner, tasks: Sequence[Task], session: Session) -> dict[str, ProbeRecorder]:
    """The learner's output for some tasks, by id."""
    return {task.id: ProbeRecorder(make_predict(learner, task, session.machine)) for task in tasks}


def _until(stop: StopRequest, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, until a signal comes."""
    for batch in batches:
        stop.check()
        yield batch
