"""From raw examples to predictions, of one task or of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

from sidetune_core.errors import InputError, PluginError, RunError, SidetuneError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import Prediction, Preprocessed, TaskHandler
from sidetune_core.interfaces.outputs import broken_rows
from sidetune_core.rl.policy_handler import PolicyHandler
from sidetune_core.serving.batches import Part, predict_parts
from sidetune_core.serving.inputs import check_shapes
from sidetune_core.serving.learner import ServedLearner

WRONG = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, OSError, RuntimeError)
"""What a handler may raise for an input that it has not checked."""


@attrs.frozen(eq=False)
class ServedTask:
    """A task of a model."""

    card: TaskCard
    """Under its name in the model."""
    handler: TaskHandler
    learner: ServedLearner
    name: str | None
    """In the learner; None for all its tasks, without a task id."""
    sharing: str
    """Equal for tasks that preprocess alike."""


def predict_each(
    served: Sequence[ServedTask], examples: Sequence[Any], batch_size: int
) -> list[list[Prediction]]:
    """Predictions of each task for all examples.

    Args:
        served: the tasks.
        examples: raw.
        batch_size: most examples at once.
    """
    predictions: list[list[Prediction]] = [[] for _ in served]
    for first in range(0, len(examples), _checked_size(batch_size)):
        chunk = examples[first : first + batch_size]
        for row, more in zip(predictions, _predict_chunks(served, [chunk] * len(served), False), strict=True):
            row += more
    return predictions


def predict_mixed(
    served: Mapping[str, ServedTask], tasks: Sequence[str], examples: Sequence[Any], batch_size: int
) -> list[Prediction]:
    """The prediction of one task for each example.

    Args:
        served: the tasks by name.
        tasks: the name of the task of each example.
        examples: raw.
        batch_size: most examples at once.
    """
    predictions: dict[int, Prediction] = {}
    for first in range(0, len(examples), _checked_size(batch_size)):
        rows: dict[str, list[int]] = {}
        for row, task in enumerate(tasks[first : first + batch_size], first):
            rows.setdefault(task, []).append(row)
        chunks = [[examples[row] for row in numbers] for numbers in rows.values()]
        found = _predict_chunks([served[task] for task in rows], chunks, True)
        for numbers, some in zip(rows.values(), found, strict=True):
            predictions |= zip(numbers, some, strict=True)
    return [predictions[row] for row in range(len(examples))]


def _predict_chunks(
    served: Sequence[ServedTask], chunks: Sequence[Sequence[Any]], concatenate: bool
) -> list[Sequence[Prediction]]:
    """Predictions of each task for its chunk of raw examples (see `predict_parts`)."""
    prepared = list(_preprocess_all(served, chunks, concatenate))
    parts = [Part(one.learner, one.name, made.inputs) for one, made in zip(served, prepared, strict=True)]
    outputs = predict_parts(parts, concatenate)
    return [
        _postprocess(one, output, made) for one, output, made in zip(served, outputs, prepared, strict=True)
    ]


def _checked_size(batch_size: int) -> int:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}, expected a number of examples from 1 on")
    return batch_size


def _preprocess_all(
    served: Sequence[ServedTask], chunks: Sequence[Sequence[Any]], different: bool
) -> Iterator[Preprocessed]:
    """The chunk of each task preprocessed; once for tasks that preprocess the same examples alike."""
    made: dict[str, Preprocessed] = {}
    for one, chunk in zip(served, chunks, strict=True):
        if different or one.sharing not in made:
            made[one.sharing] = _preprocess(one, chunk)
        yield made[one.sharing]


def _preprocess(served: ServedTask, examples: Sequence[Any]) -> Preprocessed:
    """Raw examples as inputs of a task.

    Raises:
        InputError: they are not what the task takes.
    """
    if isinstance(served.handler, PolicyHandler):
        raise InputError(
            f"task '{served.card.id}' is a policy, which acts: call model.act(observation, "
            f"'{served.card.id}'), or model.actor('{served.card.id}') for whole episodes"
        )
    try:
        prepared = served.handler.preprocess(examples)
    except SidetuneError:
        raise
    except WRONG as error:
        raise InputError(
            f"task '{served.card.id}' cannot use the input: {type(error).__name__}: {error}"
        ) from error
    check_shapes(served.card, prepared.inputs)
    return prepared


def _postprocess(served: ServedTask, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
    output = output.cpu()
    if broken_rows(output, served.card.outputs).any():
        raise RunError(
            f"task '{served.card.id}': an output is NaN or infinite, so there is no prediction; the network "
            "may have diverged in training"
        )
    predictions = served.handler.postprocess(output, examples)
    if len(predictions) != examples.count:
        handler = type(served.handler).__name__
        raise PluginError(f"{handler}.postprocess() made {len(predictions)} predictions of {examples.count}")
    return predictions
