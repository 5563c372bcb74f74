"""The recorder of a worker process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from sidetune_core.assembly.evaluation import Evaluation
from sidetune_core.certificate.probes import Recorded
from sidetune_core.config.identity import Identity
from sidetune_core.interfaces.capabilities import task_states
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage.ahead import ahead_path
from sidetune_core.storage.checkpoint import MidTaskState
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.stage import Stage
from sidetune_core.training.tracked import TrackedLearner
from sidetune_core.training.workers.handover import Call, Handover


class HandoverRecorder(Recorder):
    """The recorder of a worker process: what there is to record goes into a `Handover`.

    Args:
        folder: of the run.
        stage: that is trained.
        count: number of tasks that are trained after it.
        shared: names of the entries of the learner's state dict that are not made by the stage.
        identity: of the run.
        resumed: what was handed over of the stage so far; None at its start.
        since: see `Handover`.
        progress: is called with the steps taken and those of the stage.
    """

    def __init__(
        self,
        folder: RunFolder,
        stage: Stage,
        count: int,
        shared: Collection[str],
        identity: Identity | None,
        resumed: Handover | None,
        since: int,
        progress: Callable[[int, int], None],
    ) -> None:
        super().__init__(folder)
        self._stage, self._shared, self._progress = stage, frozenset(shared), progress
        self._path = ahead_path(folder.checkpoints, count)
        self._identity = identity.to_json() if identity is not None else None
        self._since = resumed.since if resumed is not None else since
        self._calls: list[Call] = list(resumed.calls) if resumed is not None else []
        self._total = 0
        self._worked = time.process_time()

    def info(self, text: str) -> None:
        self._calls.append(("info", (text,)))

    def warning(self, text: str) -> None:
        self._calls.append(("warning", (text,)))

    def start_stage(self, title: str, steps: int) -> None:
        self._total = steps
        self._progress(0, steps)

    def parameter_counts(self, counts: Mapping[str, Any]) -> None:
        self._calls.append(("parameter_counts", (dict(counts),)))

    def training_metrics(self, line: Mapping[str, Any], shown: Mapping[str, float]) -> None:
        self._calls.append(("metrics_line", (dict(line),)))
        self._progress(line["step"], self._total)

    def within(self, line: Mapping[str, Any]) -> None:
        self._calls.append(("within", (dict(line),)))

    def evaluation(
        self,
        after: int,
        task: str,
        split: str,
        metrics: Mapping[str, float | None],
        not_finite: str = "",
    ) -> None:
        self._calls.append(("evaluation", (after, task, split, dict(metrics), not_finite)))

    def gap(self, task: Task, split: str, reason: str) -> None:
        self._calls.append(("gap", (task.id, split, reason)))

    def document(self, task: str, split: str, name: str, text: str) -> None:
        self._calls.append(("document", (task, split, name, text)))

    def save_mid_task(
        self, tracked: TrackedLearner, stage: Stage, seen: Sequence[Task], state: MidTaskState
    ) -> None:
        """The digests before the stage are those of the main process, which has trained the tasks before."""
        self._handover(tracked.learner, mid_task=attrs.evolve(state, before={})).write()

    def hand_over(
        self,
        learner: nn.Module,
        steps: int,
        evaluations: Mapping[str, Mapping[str, Evaluation]],
        probes: Mapping[str, Recorded],
    ) -> None:
        """Hand over the finished stage."""
        seconds = time.process_time() - self._worked
        self._handover(learner, steps=steps, seconds=seconds, evaluations=evaluations, probes=probes).write()

    def _handover(self, learner: nn.Module, **values: Any) -> Handover:
        state = {name: value for name, value in learner.state_dict().items() if name not in self._shared}
        tasks = task_states(self._stage.tasks)
        return Handover(self._path, self._since, self._calls, state, tasks, identity=self._identity, **values)
