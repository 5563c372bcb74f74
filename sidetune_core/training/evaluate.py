"""The rows of R: tasks are evaluated, and the metrics recorded."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor

from sidetune_core.assembly.evaluation import Evaluation, evaluate_split
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.scenario_evaluation import evaluate_without_task_id
from sidetune_core.certificate.probes import ProbeRecorder
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.scenarios import DEFAULT
from sidetune_core.system.signals import StopRequest
from sidetune_core.training.context import Context
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.tracked import TrackedLearner
from sidetune_core.training.trainable import set_trainable, start_task


def evaluate(
    tasks: Sequence[Task],
    probes: Mapping[str, ProbeRecorder],
    learner: Learner,
    context: Context,
    recorder: Recorder,
    after: int,
) -> None:
    """Evaluate tasks, each in one of the processes, and record the metrics.

    Args:
        tasks: to evaluate.
        probes: see `measure`.
        learner: see `measure`.
        context: of the run.
        recorder: of the run.
        after: the row of R, the index of the task trained last.
    """
    record(tasks, measure(tasks, probes, learner, context), recorder, after)


def measure(
    tasks: Sequence[Task], probes: Mapping[str, ProbeRecorder], learner: Learner, context: Context
) -> dict[str, Mapping[str, Evaluation]]:
    """Evaluate tasks, each in one of the processes.

    Args:
        tasks: to evaluate.
        probes: the learner's output for each task, by id; afterwards each has the probes of all processes.
        learner: the learner; where task ids are unknown, it predicts without (see `evaluate_splits`).
        context: of the run.

    Returns:
        The evaluations by id of a task and split, in every process.
    """
    own = {
        task.id: evaluate_splits(task, probes[task.id], learner, context)
        for task in context.group.shard(tasks)
    }
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
            own[task.id] = evaluate_splits(task, predict, untrained.learner, context)
    untrained.close()
    record(tasks, _gathered(own, context), recorder, -1)


def evaluate_splits(
    task: Task, predict: Predict, learner: Learner, context: Context
) -> dict[str, Evaluation]:
    """Evaluations of a task by split; a stop request ends them between two batches.

    Args:
        task: to evaluate.
        predict: the learner's output for it.
        learner: in the scenarios ``domain`` and ``class``, it also predicts without the task id (see
            `evaluate_without_task_id`).
        context: of the run.
    """
    known = _unless_stopped(predict, context.stop)
    if learner.scenario == DEFAULT:
        return {split: evaluate_split(task, known, split) for split in task.splits}
    unknown = _unless_stopped(make_predict(learner, task, context.machine, known=False), context.stop)
    return {split: evaluate_without_task_id(task, known, unknown, learner, split) for split in task.splits}


def _unless_stopped(predict: Predict, stop: StopRequest) -> Predict:
    def predict_unless_stopped(inputs: Inputs) -> Tensor:
        stop.check()
        return predict(inputs)

    return predict_unless_stopped


def _gathered(
    own: Mapping[str, Mapping[str, Evaluation]], context: Context
) -> dict[str, Mapping[str, Evaluation]]:
    """The evaluations of all processes."""
    return {
        task_id: by_split
        for evaluated in context.group.gather(own)
        for task_id, by_split in evaluated.items()
    }
