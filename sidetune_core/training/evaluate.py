"""The rows of R: tasks are evaluated, and the metrics recorded."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor

from sidetune_core.assembly.build import start_task
from sidetune_core.assembly.evaluation import Evaluation, evaluate_split
from sidetune_core.assembly.predict import make_predict
from sidetune_core.certificate.probes import ProbeRecorder
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.system.signals import StopRequest
from sidetune_core.training.context import Context
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.trainable import set_trainable
from sidetune_core.training.unchanged import Carried


def evaluate(
    tasks: Sequence[Task],
    probes: Mapping[str, ProbeRecorder],
    context: Context,
    recorder: Recorder,
    after: int,
    carried: Mapping[str, Carried] | None = None,
    measured: Mapping[str, Mapping[str, Evaluation]] | None = None,
) -> list[float | None]:
    """Evaluate tasks, each in one of the processes, and record the metrics.

    Args:
        tasks: to evaluate.
        probes: the learner's output for each task, by id; afterwards each has the probes of all processes.
        context: of the run.
        recorder: of the run.
        after: the row of R, the index of the task trained last.
        carried: evaluations that are not repeated, by id of a task.
        measured: evaluations of this row by another process, by id of a task and split.

    Returns:
        A cell of R on the test split for each task; None for a gap.
    """
    carried, measured = carried or {}, measured or {}
    remaining = [task for task in tasks if task.id not in carried.keys() | measured.keys()]
    own = {
        task.id: evaluate_splits(task, probes[task.id], context.stop)
        for task in context.group.shard(remaining)
    }
    for recorded in context.group.gather({task_id: probes[task_id].recorded for task_id in own}):
        for task_id, examples in recorded.items():
            probes[task_id].recorded = examples
    return _record(tasks, {**own, **measured}, context, recorder, after, carried)


def evaluate_untrained(
    learner: Learner, tasks: Sequence[Task], context: Context, recorder: Recorder, first: int = 0
) -> None:
    """Row -1 of R, on a copy of the learner: every task started, none trained. The tasks before number
    `first` are not evaluated."""
    untrained = copy.deepcopy(learner)
    own = {}
    for task in tasks[:first]:
        start_task(untrained, task, context.seed, context.machine)
    tasks = tasks[first:]
    for task in tasks:
        FeatureCache.detach(untrained)
        start_task(untrained, task, context.seed, context.machine)
        set_trainable(untrained, [], context)
        if task in context.group.shard(tasks):
            own[task.id] = evaluate_splits(task, make_predict(untrained, task, context.machine), context.stop)
    _record(tasks, own, context, recorder, -1, {})


def evaluate_splits(task: Task, predict: Predict, stop: StopRequest) -> dict[str, Evaluation]:
    """Evaluations of a task by split; a stop request ends them between two batches."""

    def predict_unless_stopped(inputs: Inputs) -> Tensor:
        stop.check()
        return predict(inputs)

    return {split: evaluate_split(task, predict_unless_stopped, split) for split in task.splits}


def _record(
    tasks: Sequence[Task],
    own: Mapping[str, Mapping[str, Evaluation]],
    context: Context,
    recorder: Recorder,
    after: int,
    carried: Mapping[str, Carried],
) -> list[float | None]:
    """Gather the evaluations of all processes, record them, and return the cells of R."""
    gathered = {
        task_id: by_split
        for evaluated in context.group.gather(own)
        for task_id, by_split in evaluated.items()
    }
    cells: list[float | None] = []
    for task in tasks:
        if task.id in carried:
            cell = carried[task.id]
            for split, metrics in cell.metrics.items():
                recorder.evaluation(after, task.id, split, metrics, since=cell.since)
            cells.append(cell.metrics["test"][task.metric] if "test" in cell.metrics else None)
            continue
        by_split = gathered[task.id]
        for split, evaluation in by_split.items():
            recorder.evaluation(after, task.id, split, evaluation.metrics, evaluation.not_finite)
            if evaluation.metrics[task.metric] is None:
                recorder.gap(task, split, evaluation.not_finite)
            for name, text in evaluation.documents.items():
                recorder.document(task.id, split, name, text)
        cells.append(by_split["test"].metrics[task.metric] if "test" in by_split else None)
    return cells
