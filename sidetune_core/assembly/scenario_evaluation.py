"""The evaluation of a task where the task of an example is not known at test time: scenarios ``domain`` and
``class``.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from sidetune_core.assembly.cards import CardTask
from sidetune_core.assembly.evaluation import Evaluation
from sidetune_core.assembly.finite import FiniteCheck
from sidetune_core.errors import FitError, PluginError, shorten
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.interfaces.predictions import output_names
from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.scenarios import CLASS, DEFAULT, DOMAIN, Scenario, task_aware, title
from sidetune_core.supervised.class_metrics import TASK_CONFUSION, task_confusion
from sidetune_core.supervised.objectives import Classification
from sidetune_core.supervised.task import SupervisedTask


def evaluate_without_task_id(
    task: Task,
    known: Predict,
    unknown: Predict,
    learner: Learner,
    split: str,
    examples: int | None = None,
) -> Evaluation:
    """The evaluation of a split. The metrics are those of the predictions without a task id; the task's
    metric with the task id is `task_aware`, such as ``accuracy_task_aware``.

    In the scenario ``class`` a prediction is one of the classes of all tasks that were started, and the
    document `TASK_CONFUSION` says of which task.

    Args:
        task: see `check_classes`.
        known: the learner's prediction with the task id.
        unknown: its prediction without.
        learner: knows which tasks were started.
        split: of the task.
        examples: number of them to evaluate (see `SupervisedTask.batches`); None for all.

    Raises:
        PluginError: an output without a task id does not have these classes.
    """
    assert isinstance(task, SupervisedTask)
    assert isinstance(task.objective, Classification)
    outputs = joint_outputs(learner)
    first = first_class(learner, task.id)
    checks = [FiniteCheck(known, task.outputs), FiniteCheck(unknown, outputs)]
    with_id = task.objective.measure()
    without = attrs.evolve(task.objective, outputs=outputs, weights=None).measure()
    predicted = []
    for batch in task.batches(split, examples):
        own, joint = (check(batch.inputs).cpu() for check in checks)
        if joint.ndim != 2 or joint.shape[1] != outputs.size:
            raise PluginError(
                f"{type(learner).__name__}.predict() for task_id None returns an output "
                f"{tuple(joint.shape)} for {len(batch.targets)} examples; return the logits of all "
                f"{outputs.size} classes"
            )
        with_id.add(own, batch.targets)
        without.add(joint, batch.targets + first)
        predicted.append(joint.argmax(1))
    name = task_aware(task.metric)
    if reason := checks[1].reason or checks[0].reason:
        return Evaluation(dict.fromkeys([*without.metrics(), name]), {}, reason)
    metrics = {**without.metrics(), name: with_id.metrics()[task.metric]}
    documents = dict(without.documents())
    if learner.scenario == CLASS:
        sizes = [one.size or 0 for one in learner.task_outputs.values()]
        counts = _counts(torch.cat(predicted).numpy(), sizes)
        documents[TASK_CONFUSION] = task_confusion(task.id, list(learner.task_outputs), counts)
    return Evaluation(metrics, documents)


def joint_outputs(learner: Learner) -> Outputs:
    """What a learner predicts without a task id."""
    started = list(learner.task_outputs.values())
    if learner.scenario == DOMAIN:
        return started[-1]
    total = sum(outputs.size or 0 for outputs in started)
    if not all(outputs.names for outputs in started):
        return Outputs("logits", total)
    names = tuple(name for outputs in started for name in outputs.names)
    return Outputs("logits", total, output_names(total, names))


def first_class(learner: Learner, task_id: str) -> int:
    """The number of a task's first class among those of all started tasks; 0 where all have the same."""
    if learner.scenario == DOMAIN:
        return 0
    ids = list(learner.task_outputs)
    return sum(learner.task_outputs[id].size or 0 for id in ids[: ids.index(task_id)])


def _counts(predicted: NDArray[np.int64], sizes: Iterable[int]) -> list[int]:
    """Of predictions (N,) of a class, how many belong to each task of these numbers of classes."""
    edges = np.cumsum([0, *sizes])
    return [int(count) for count in np.histogram(predicted, bins=edges - 0.5)[0]]


def check_classes(tasks: Iterable[Task], scenario: Scenario) -> None:
    """Check that tasks can be evaluated in a scenario.

    Raises:
        FitError: one is no classification, or in ``domain``, tasks have different numbers of classes.
    """
    if scenario == DEFAULT:
        return
    tasks = list(tasks)
    if wrong := [task.id for task in tasks if not is_classification(task)]:
        raise FitError(
            f"the {title(scenario)} scenario needs tasks that classify (a SupervisedTask with the objective "
            f"Classification, such as a ClassTask or Task.from_dataset(classes=...)); {shorten(wrong)} "
            f"{'is' if len(wrong) == 1 else 'are'} not. Leave out --scenario {scenario}"
        )
    sizes = {task.id: task.outputs.size for task in tasks}
    if scenario == DOMAIN and len(set(sizes.values())) > 1:
        listed = shorten([f"{id}: {size}" for id, size in sizes.items()], 6)
        raise FitError(
            f"in the {title(scenario)} scenario all tasks have the same classes; these have different "
            f"numbers of classes ({listed}). Choose --scenario class or task"
        )


def is_classification(task: Task) -> bool:
    """Whether a task can be evaluated without a task id."""
    if isinstance(task, CardTask):
        return task.outputs.kind == "logits" and task.outputs.size is not None
    if not isinstance(task, SupervisedTask) or not isinstance(task.objective, Classification):
        return False
    return task.outputs.kind == "logits" and type(task).evaluate is SupervisedTask.evaluate
