"""The training loop, from top to bottom: for each stage start, train, finish, evaluate, checkpoint. It names
no plugin.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import attrs
from torch import nn

from sidetune_core.assembly.evaluation import Evaluation
from sidetune_core.assembly.predict import make_predict
from sidetune_core.certificate.probes import ProbeRecorder, track_reads
from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.capabilities import LosesState, set_task_state, task_state
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Batch, Order, Task
from sidetune_core.interfaces.training import ParamGroup
from sidetune_core.io.printable import counted
from sidetune_core.results.cells import with_unit
from sidetune_core.results.metrics import have_one_unit, mean
from sidetune_core.seeding import derive_seed, seeded
from sidetune_core.storage.checkpoint import Checkpoint, MidTaskState
from sidetune_core.system.signals import StopRequest
from sidetune_core.training.batches import batches
from sidetune_core.training.boundary import Boundary
from sidetune_core.training.context import Context
from sidetune_core.training.evaluate import evaluate, evaluate_untrained, measure, record
from sidetune_core.training.memo import Memo
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.stage import Stage, batch_size
from sidetune_core.training.start_from import find_source, start_from
from sidetune_core.training.steps import StageTraining
from sidetune_core.training.tracked import TrackedLearner, is_thorough
from sidetune_core.training.trainable import restart_task, set_trainable, start_phase, start_task
from sidetune_core.training.workers.entry_digests import entry_digest
from sidetune_core.training.workers.handover import Handover


class Workers(Protocol):
    """Processes that train stages and hand them over in files (see `Handover`)."""

    def begin(
        self,
        learner: Learner,
        shared: Collection[str],
        tasks: Sequence[Task],
        stages: Sequence[Stage],
        resumed: Checkpoint | None,
        context: Context,
        recorder: Recorder,
    ) -> None:
        """Begin to train the stages of a run.

        Args:
            learner: after the stages before.
            shared: digests of the entries of its state dict before its first task.
            tasks: of the run.
            stages: those that are left.
            resumed: a checkpoint within the first of them, or None.
            context: of the run.
            recorder: of the run.
        """

    def wait_for(self, count: int) -> None:
        """Wait until the stage is trained after which `count` tasks are.

        Raises:
            StopRequested: a signal came; the workers have saved their state.
            RunError: a worker was killed.
            SidetuneError: what training the stage has raised.
        """


def learn(
    learner: Learner,
    tasks: Sequence[Task],
    context: Context,
    recorder: Recorder,
    memo: Memo | None = None,
    workers: Workers | None = None,
) -> None:
    """Train a learner on `tasks` in order, or on all at once if it is joint, from the latest checkpoint if
    there is one.

    A resumed run ends with the bytes of one that was never interrupted: weights, optimiser, random
    generators, the position in the order of examples (a function of seed, task and step), the lines of the
    run folder. The feature cache is not restored; it is filled again with the same bits (see
    `feature_cache.cache.Table.lookup`).

    Several processes (see `ProcessGroup`) run this loop together. Each computes its shard of every batch and
    evaluates some of the tasks; only the recorder of the first one writes.

    Args:
        learner: before its first task.
        tasks: all tasks of the run; those before an extension need no data.
        context: of the run.
        recorder: of the run.
        memo: of the evaluations of the run; None to evaluate every task after every stage.
        workers: processes that train stages side by side; None to train them here, one after another.

    Raises:
        Diverged: the loss, or an output of a policy in training, is not finite; the latest checkpoint stays.
        PluginError: `Learner.start` returned a module or parameter that is not the learner's.
        StopRequested: a signal came, and the state is saved.
        WriteError: the run folder cannot be written; what was there stays.
    """
    tracked = TrackedLearner(learner, always_thorough=context.options.evaluate == "all")
    tracked.place(context.machine)
    try:
        _learn(tracked, tasks, context, recorder, memo if memo is not None else Memo(), workers)
    finally:
        tracked.close()


def _learn(
    tracked: TrackedLearner,
    tasks: Sequence[Task],
    context: Context,
    recorder: Recorder,
    memo: Memo,
    workers: Workers | None,
) -> None:
    """`learn` for a learner that is followed."""
    learner = tracked.learner
    learner.stream_length = len(tasks)
    unstarted = learner.state_dict() if workers is not None else {}
    shared = set(map(entry_digest, unstarted.values()))
    resumed = context.group.broadcast_from_main(recorder.latest_checkpoint)
    recorder.rewind(resumed)
    done = resumed.done if resumed else []
    mid_task = resumed if resumed and resumed.mid_task else None
    if mid_task is None and len(done) == memo.first:
        _check_options(tasks, context.options, memo.first)
        evaluate_untrained(learner, tasks, context, recorder, memo.first)
    memo.resume(done, context.group)
    if resumed is not None:
        _resume(tracked, tasks, resumed, context, recorder)
        tracked.refresh(thorough=True)
    stages = [Stage(tasks)] if learner.joint else [Stage([task]) for task in tasks]
    if workers is not None:
        left = [stage for stage in stages if stage.last.id not in done]
        workers.begin(learner, shared, tasks, left, mid_task, context, recorder)
    one_unit = have_one_unit([task.metric for task in tasks])
    for number, stage in enumerate(stages, 1):
        if stage.last.id in done:
            continue
        began = time.monotonic()
        seen = tasks[: tasks.index(stage.last) + 1]
        since = mid_task.mid_task.step if mid_task is not None and mid_task.mid_task is not None else 0
        if workers is not None:
            workers.wait_for(len(seen))
        handover = recorder.handover(len(seen), since)
        if handover is None or handover.mid_task is not None:
            if handover is not None:
                handover.replay(recorder, stage.tasks)
            trained = train_stage(tracked, stage, seen, handover or mid_task, context, recorder)
        else:
            trained = take_over(tracked, stage, seen, handover, context, recorder)
        is_full = is_thorough(number) or number == len(stages)
        cells = close_stage(tracked, trained, context, recorder, memo, is_full)
        mid_task = None
        metric = stage.last.metric
        average = (
            f", mean over tasks so far {with_unit(metric, mean(cells))}" if one_unit and seen[1:] else ""
        )
        effort = f"{counted(trained.steps, 'step')}, {time.monotonic() - began:.1f} s"
        recorder.finish_stage(
            stage.last.id,
            len(seen) - 1,
            f"task {len(seen)}/{len(tasks)} {stage.last.title}: {metric} "
            f"{with_unit(metric, cells[-1])}{average} ({effort})",
        )
    FeatureCache.detach(learner, tracked.bases)  # the user may change the base of a learner that is returned


def _check_options(tasks: Sequence[Task], options: TrainOptions, first: int) -> None:
    """Refuse options that do not fit the tasks before the first evaluation, which may take long.

    Raises:
        OptionError: a task cannot have such batches, or there is no task to start from.
    """
    for task in tasks[first:]:
        Stage([task]).steps(options)
    if options.start_from is not None and len(tasks) > 1:
        find_source(options.start_from, tasks[: max(first, 1)])


@attrs.frozen(eq=False)
class TrainedStage:
    """What the training of a stage hands over to its end: `train_stage` makes it, `close_stage` takes it."""

    stage: Stage
    seen: Sequence[Task]
    """The tasks trained so far, those of the stage last."""
    before: Mapping[str, str]
    """Digests of all tensors before the first step."""
    at_start: Collection[str]
    """Names of the tensors that the learner had before its first task; empty after a later stage."""
    steps: int
    """Optimiser steps."""
    handover: Handover | None = None
    """Of a worker process that has trained the stage."""


def train_stage(
    tracked: TrackedLearner,
    stage: Stage,
    seen: Sequence[Task],
    resumed: Checkpoint | Handover | None,
    context: Context,
    recorder: Recorder,
) -> TrainedStage:
    """Start a stage, evaluate its tasks untrained (the row of R before it), take its steps and finish it.

    Args:
        tracked: the learner after the stages before.
        stage: the tasks to train.
        seen: the tasks trained before, then those of the stage.
        resumed: a checkpoint within the stage; None to train it from its start.
        context: of the run.
        recorder: of the run.
    """
    learner = tracked.learner
    trainable: list[nn.Module | nn.Parameter | ParamGroup] = []
    at_start = set(tracked.state_digests()) if len(seen) == len(stage.tasks) else set()
    for task in stage.tasks:
        FeatureCache.detach(learner, tracked.bases)
        trainable += start_task(tracked, task, context)
    phases = stage.phases(learner, context.options)
    if resumed is not None and resumed.mid_task is not None:
        state = resumed.mid_task
        if isinstance(resumed, Handover):  # in another process, other tasks were trained before
            tracked.refresh()
            state = attrs.evolve(state, before=tracked.before())
        for phase in phases[1:]:
            if phase.first < state.step:
                started = start_phase(tracked, stage.last, phase.phase, context)
                trainable = trainable if started is None else [*started]
        resumed.load(learner)
        set_trainable(tracked, trainable, context)
        tracked.refresh()
    else:
        trained = len(seen) - len(stage.tasks)
        if context.options.start_from is not None and trained:
            for task in stage.tasks:
                start_from(learner, task, seen[:trained], context.options.start_from)
        if trained:  # R[j-1][j]: the task before it is trained
            set_trainable(tracked, [], context)
            probes = record_probes(learner, stage.tasks, context)
            evaluate(stage.tasks, probes, learner, context, recorder, after=trained - 1)
        set_trainable(tracked, trainable, context)
        tracked.refresh(within=())
        state = MidTaskState([task.id for task in stage.tasks], 0, tracked.before())
        recorder.parameters(stage, tracked)
        _warn_of_large_batches(stage, context, recorder)
    steps = StageTraining(tracked, stage, seen, phases, state, context, recorder).run(trainable)
    tracked.freeze()
    context.group.check_replicas_match(learner, f"after {stage.name}")
    _finish(learner, stage, context, recorder)
    return TrainedStage(stage, seen, state.before, at_start, steps)


def take_over(
    tracked: TrackedLearner,
    stage: Stage,
    seen: Sequence[Task],
    handover: Handover,
    context: Context,
    recorder: Recorder,
) -> TrainedStage:
    """Start a stage that a worker process has trained, and load and record what it has handed over."""
    learner = tracked.learner
    at_start = set(tracked.state_digests()) if len(seen) == len(stage.tasks) else set()
    for task in stage.tasks:
        FeatureCache.detach(learner, tracked.bases)
        start_task(tracked, task, context)
    set_trainable(tracked, [], context)
    tracked.refresh()
    before = tracked.before()
    for phase in stage.phases(learner, context.options)[1:]:
        start_phase(tracked, stage.last, phase.phase, context)
    handover.load(learner)
    tracked.freeze()
    for task in stage.tasks:
        if task.id in handover.tasks:
            set_task_state(task, handover.tasks[task.id])
    handover.replay(recorder, stage.tasks)
    return TrainedStage(stage, seen, before, at_start, handover.steps, handover)


def close_stage(
    tracked: TrackedLearner,
    trained: TrainedStage,
    context: Context,
    recorder: Recorder,
    memo: Memo,
    is_full: bool,
) -> list[float | None]:
    """Evaluate the tasks trained so far, certify and save; returns the new row of R.

    Args:
        tracked: the learner after the stage, frozen and in eval mode.
        trained: what the stage has done.
        context: of the run.
        recorder: of the run.
        memo: of the evaluations of the run.
        is_full: hash all tensors and replay the probes of all tasks.
    """
    tracked.refresh(thorough=is_full, decides=True)
    seen, stage = trained.seen, trained.stage
    probes = Recorders(tracked.learner, seen, context)
    probes |= record_probes(tracked.learner, stage.tasks, context, tracked.names_at)
    evaluations: dict[str, Mapping[str, Evaluation]] = {}
    if trained.handover is not None:
        evaluations |= trained.handover.evaluations
        for task_id, recorded in trained.handover.probes.items():
            probes[task_id].recorded = recorded
    row = memo.plan(tracked, stage.tasks, seen, probes, context, recorder)
    seen = memo.with_data(seen, row)
    wanted = row.measured - evaluations.keys()
    evaluations |= measure([task for task in seen if task.id in wanted], probes, tracked.learner, context)
    first, row = row, memo.check(row, evaluations, seen)
    if row is not first:
        recorder.warning(memo.contradiction(row, evaluations, tracked.learner))
        seen = memo.with_data(seen, row)
        unmeasured = [task for task in seen if task.id not in first.measured]
        evaluations |= measure(unmeasured, probes, tracked.learner, context)
    record([task for task in seen if task.id in row.measured], evaluations, recorder, row.number)
    if len(row.measured) < len(seen):
        recorder.unchanged(row.number)
    memo.add(row, evaluations)
    boundary = Boundary(
        tracked,
        stage,
        seen,
        probes,
        trained.before,
        trained.at_start,
        memo.replays,
        row.measured,
        memo.outside,
        is_full,
    )
    recorder.save_boundary(boundary, context)
    return memo.cells(seen)


def _warn_of_large_batches(stage: Stage, context: Context, recorder: Recorder) -> None:
    """Report the tasks that have fewer examples than a batch of the options."""
    asked = context.options.batch_size
    for task in stage.tasks:
        if (size := batch_size(task, context.options)) < asked:
            recorder.warning(
                f"task {task.id} has {size} training examples; its batches have {size} of them "
                f"instead of {asked} (--train.batch-size)"
            )


def _resume(
    tracked: TrackedLearner, tasks: Sequence[Task], start: Checkpoint, context: Context, recorder: Recorder
) -> None:
    """Bring learner and tasks to a checkpoint.

    A checkpoint within a stage is loaded later, when the tasks of that stage have been started.
    """
    for task in tasks[: len(start.done)]:
        restart_task(tracked, task, context)
    if start.mid_task is None:
        start.load(tracked.learner)
    for task in tasks:
        if task.id in start.tasks:
            set_task_state(task, start.tasks[task.id])
    recorder.info(f"Resuming {start} ({len(start.done)}/{len(tasks)} tasks done)")
    if start.mid_task is not None and start.mid_task.optimizer is not None:
        notes = {
            task.not_restored
            for task in tasks
            if task.id in start.mid_task.tasks and isinstance(task, LosesState)
        }
        for note in sorted(notes - {""}):
            recorder.info(note)


def _finish(learner: Learner, stage: Stage, context: Context, recorder: Recorder) -> None:
    """`Learner.finish` for each task, on batches in an order of their own; the state of the task is left as
    it was.
    """
    for task in stage.tasks:
        order = Order(derive_seed(context.seed, "finish"), batch_size(task, context.options))
        state = task_state(task)
        with seeded(context.seed, "finish", task.id):
            stream = batches(task, learner, context, order)
            learner.finish(task, _until(context.stop, stream, partial(recorder.finishing, task.title)))
        set_task_state(task, state)
    context.group.broadcast_state(learner)


def record_probes(
    learner: Learner,
    tasks: Sequence[Task],
    context: Context,
    names_at: Mapping[int, Sequence[str]] | None = None,
) -> dict[str, ProbeRecorder]:
    """The learner's predictions for some tasks, by id, recording the first inputs of each, and all tensors
    that each reads if their names by address are given."""
    return {
        task.id: ProbeRecorder(
            make_predict(learner, task, context.machine),
            track_reads(learner, names_at) if names_at is not None else None,
        )
        for task in tasks
    }


class Recorders(dict[str, ProbeRecorder]):
    """`record_probes`, where most tasks are never asked for: each recorder is made when it is."""

    def __init__(self, learner: Learner, tasks: Sequence[Task], context: Context) -> None:
        super().__init__()
        self._learner, self._context = learner, context
        self._tasks = {task.id: task for task in tasks}

    def __missing__(self, task_id: str) -> ProbeRecorder:
        self.update(record_probes(self._learner, [self._tasks[task_id]], self._context))
        return self[task_id]


def _until(stop: StopRequest, batches: Iterator[Batch], progress: Callable[[int], None]) -> Iterator[Batch]:
    """The batches, until a stop is requested; `progress` is called with the number of those processed."""
    for number, batch in enumerate(batches):
        stop.check()
        progress(number)
        yield batch
