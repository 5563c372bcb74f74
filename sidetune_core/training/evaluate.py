"""The rows of R: tasks are evaluated, and the metrics recorded."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor

from sidetune_core.assembly.evaluation import Evaluation, evaluate_split
from sidetune_core.assembly.predict import make_predict
from sidetune_core.certificate.probes import ProbeRecorder
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.training.context import Context
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.tracked import TrackedLearner
from sidetune_core.training.trainable import set_trainable, start_task


def evaluate(
    tasks: Sequence[Task],
    probes: Mapping[str, ProbeRecorder],
    context: Context,
    recorder: Recorder,
    after: int,
) -> None:
    """Evaluate tasks, each in one of the processes, and record the metrics.

    Args:
        tasks: to evaluate.
        probes: see `measure`.
        context: of the run.
        recorder: of the run.
        after: the row of R, the index of the task trained last.
    """
    record(tasks, measure(tasks, probes, context), recorder, after)


def measure(
    tasks: Sequence[Task], probes: Mapping[str, ProbeRecorder], context: Context
) -> dict[str, Mapping[str, Evaluation]]:
    """Evaluate tasks, each in one of the processes.

    Args:
        tasks: to evaluate.
        probes: the learner's output for each task, by id; afterwards each has the probes of all processes.
        context: of the run.

    Returns:
        The evaluations by id of a task and split, in every process.
    """
    own = {task.id: evaluate_splits(task, probes[task.id], context) for task in context.group.shard(tasks)}
    for recorded in context.group.gather({task_id: probes[task_id].recorded for task_id in own}):
        for task_id, examples in recorded.items():
            probes[task_id].recorded = examples
    return _gathered(own, context)


def record(
    tasks: Sequence[Task],
    measured: Mapping[str, Mapping[str, Evaluation]],
    recorder: Recorder,
    after: int,
) -> None:
    """Record evaluations.

    Args:
        tasks: those that were evaluated, in order.
        measured: their evaluations by id and split.
        recorder: of the run.
        after: the row of R, the index of the task trained last.
    """
    for task in tasks:
        for split, evaluation in measured[task.id].items():
            recorder.evaluation(after, task.id, split, evaluation.metrics, evaluation.not_finite)
            if evaluation.metrics[task.metric] is None:
                recorder.gap(task, split, evaluation.not_finite)
            for name, text in evaluation.documents.items():
                recorder.document(task.id, split, name, text)


def evaluate_untrained(
    learner: Learner, tasks: Sequence[Task], context: Context, recorder: Recorder, first: int = 0
) -> None:
    """Row -1 of R, on a copy of the learner: every task started, none trained. The tasks before number
    `first` are not evaluated."""
    untrained = TrackedLearner(copy.deepcopy(learner), is_hashed=False)
    own = {}
    for task in tasks[:first]:
        start_task(untrained, task, context)
    tasks = tasks[first:]
    own_tasks = {task.id for task in context.group.shard(tasks)}
    for task in tasks:
        FeatureCache.detach(untrained.learner, untrained.bases)
        start_task(untrained, task, context)
        set_trainable(untrained, [], context)
        if task.id in own_tasks:
            predict = make_predict(untrained.learner, task, context.machine)
            own[task.id] = evaluate_splits(task, predict, context)
    untrained.close()
    record(tasks, _gathered(own, context), recorder, -1)


def evaluate_splits(task: Task, predict: Predict, context: Context) -> dict[str, Evaluation]:
    """Evaluations of a task by split; a stop request ends them between two batches."""

    def predict_unless_stopped(inputs: Inputs) -> Tensor:
        context.stop.check()
        return predict(inputs)

    splits = context.selection.splits(task.splits)
    return {split: evaluate_split(task, predict_unless_stopped, split) for split in splits}


def _gathered(
    own: Mapping[str, Mapping[str, Evaluation]], context: Context
) -> dict[str, Mapping[str, Evaluation]]:
    """The evaluations of all processes."""
    return {
        task_id: by_split
        for evaluated in context.group.gather(own)
        for task_id, by_split in evaluated.items()
    }
