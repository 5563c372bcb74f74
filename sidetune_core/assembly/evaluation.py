"""The evaluation of a task on a split, in training and afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

from sidetune_core.assembly.finite import FiniteCheck
from sidetune_core.assembly.scalars import as_numbers
from sidetune_core.errors import Diverged, PluginError
from sidetune_core.interfaces.capabilities import HasDocuments, HasSubsets
from sidetune_core.interfaces.tasks import Predict, Task


@attrs.frozen
class Evaluation:
    """Metrics by name and documents (see `HasDocuments`) of one split."""

    metrics: Mapping[str, float | None]
    """None is a gap: the value, or an output that it would be computed from, is not finite."""
    documents: Mapping[str, str]
    not_finite: str = ""
    """Why there are gaps; empty if there are none."""


def evaluate_split(task: Task, predict: Predict, split: str, examples: int | None = None) -> Evaluation:
    """The evaluation of a split; all its metrics are gaps if an output is not finite.

    Args:
        task: to evaluate.
        predict: the learner's output for it.
        split: of the task.
        examples: number of the examples to evaluate, if the task can (see `HasSubsets`); None for all.

    Raises:
        PluginError: the task has asked for no prediction, has returned no metrics or not that of R, or its
            documents are no texts.
    """
    source = f"{type(task).__name__}.evaluate() of task '{task.id}'"
    check = FiniteCheck(predict, task.outputs)
    try:
        metrics = _metrics(task, check, split, examples)
    except Diverged as error:
        return Evaluation({task.metric: None}, {}, error.reason)
    except Exception:
        if not (reason := check.reason):
            raise
        return Evaluation({task.metric: None}, {}, reason)  # the task could not compute with such outputs
    if not check.examples:
        raise PluginError(
            f"{source} has asked for no prediction on split '{split}': its metrics say nothing about the "
            "learner"
        )
    if reason := check.reason:
        names = metrics if isinstance(metrics, Mapping) else {}
        return Evaluation(dict.fromkeys([*map(str, names), task.metric]), {}, reason)
    numbers = as_numbers(metrics, source)
    if task.metric not in numbers:
        raise PluginError(
            f"{source} has not returned '{task.metric}' on split '{split}', the metric that R records; it "
            f"has returned {', '.join(numbers) or 'none'}"
        )
    documents = task.documents() if isinstance(task, HasDocuments) else {}
    if not isinstance(documents, Mapping) or not all(isinstance(text, str) for text in documents.values()):
        raise PluginError(f"{type(task).__name__}.documents() is to return texts by file name")
    finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    broken = [f"{name} is {numbers[name]}" for name, value in finite.items() if value is None]
    return Evaluation(finite, dict(documents), ", ".join(broken))


def _metrics(task: Task, predict: Predict, split: str, examples: int | None) -> object:
    """What the task returns for a split, or for some of its examples."""
    if examples is not None and isinstance(task, HasSubsets):
        some = task.evaluate_subset(predict, split, examples)
        if some is not None:
            return some
    return task.evaluate(predict, split)
