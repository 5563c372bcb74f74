"""The rows of R: what a learner makes of tasks, measured and written down."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import attrs
from torch import Tensor

from sidetune_core.assembly.predict import make_predict
from sidetune_core.certificate.probes import ProbeRecorder
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.system.signals import StopRequest
from sidetune_core.training.context import Session
from sidetune_core.training.trainable import set_trainable, start_task


@attrs.frozen
class Found:
    """What an evaluation of a split gives."""

    figures: Mapping[str, float]
    documents: Mapping[str, str]
    """See `Task.documents`."""


def evaluate(
    tasks: Sequence[Task], recorders: Mapping[str, ProbeRecorder], session: Session, after: int
) -> list[float]:
    """Measure tasks, each in one of the processes, and write the figures down.

    Args:
        tasks: those to measure.
        acts: the learner's output for each, by id; what the processes have seen of its inputs is put together in all of them.
        session: where it is written.
        after: the row of R: the number of the task that was learnt last.

    Returns:
        The figures of R on the test split, one for each task; NaN where it has no such split.
    """
    own = {task.id: _measure(task, recorders[task.id], session.stop) for task in session.group.shard(tasks)}
    for inputs in session.group.gather({name: recorders[name].inputs for name in own}):
        for name, watched in inputs.items():
            recorders[name].inputs = watched
    return _write_down(tasks, own, session, after)


def evaluate_untrained(learner: Learner, tasks: Sequence[Task], session: Session) -> None:
    """Row -1 of R: every task started, none trained, on a copy."""
    fresh = copy.deepcopy(learner)
    own = {}
    for task in tasks:
        start_task(fresh, task, session)
        set_trainable(fresh, [], session)
        if task in session.group.shard(tasks):
            own[task.id] = _measure(task, make_predict(fresh, task, session.machine), session.stop)
    _write_down(tasks, own, session, after=-1)


def _measure(task: Task, predict: Predict, stop: StopRequest) -> dict[str, Found]:
    """What there is to find of a task, by split."""

    def checked(inputs: Inputs) -> Tensor:
        stop.check()
        return predict(inputs)

    found = {}
    for split in task.splits:
        figures = task.evaluate(checked, split)
        found[split] = Found(figures, dict(task.documents()))
    return found


def _write_down(
    tasks: Sequence[Task], own: Mapping[str, Mapping[str, Found]], session: Session, after: int
) -> list[float]:
    """Write down what all processes have found of some tasks, `own` in this one, and return the figures of R on the test splits."""
    every = {name: found for measured in session.group.gather(own) for name, found in measured.items()}
    for task in tasks:
        for split, found in every[task.id].items():
            session.folder.append(
                "eval.jsonl", {"after": after, "task": task.id, "split": split, "figures": found.figures}
            )
            for name, text in found.documents.items():
                session.folder.write_document(f"{task.id}-{split}", name, text)
    return [
        every[task.id]["test"].figures[task.metric] if "test" in every[task.id] else float("nan")
        for task in tasks
    ]
