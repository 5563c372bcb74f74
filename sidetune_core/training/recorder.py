"""Where a run is written to and shown: its folder, TensorBoard, progress, and the time it takes.

The loop calls a `Recorder` in every process. The first process of a run has a `RunRecorder`; in the others
nothing is recorded, so that neither the loop nor the steps ask which process they run in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sidetune_core.certificate.log import CertificateLog
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage.checkpoint import Checkpoint, MidTaskState
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.threads import Threads
from sidetune_core.training.boundary import Boundary
from sidetune_core.training.context import Context
from sidetune_core.training.stage import Stage
from sidetune_core.training.tracked import TrackedLearner
from sidetune_core.training.workers.handover import Handover


class Recorder:
    """Records nothing: the recorder of every process but the first. `RunRecorder` does what the methods say.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest complete checkpoint of the run; None at its start."""
        return None

    def rewind(self, start: Checkpoint | None) -> None:
        """Bring the run folder and TensorBoard back to `start`; None for the start of the run."""

    def handover(self, count: int, since: int) -> Handover | None:
        """What a worker process has handed over of the stage after which `count` tasks are trained, and which
        it continued from step `since` of the run's own checkpoint; None if there is nothing of use."""
        return None

    def info(self, text: str) -> None:
        """Show a line of progress."""

    def warning(self, text: str) -> None:
        """Show a warning, even when quiet, and keep it in the log."""

    def start_stage(self, title: str, steps: int) -> None:
        """Training of `steps` steps begins."""

    def finishing(self, title: str, batches: int) -> None:
        """`Learner.finish` has processed this many batches of a task."""

    def certificate(self, done: Sequence[str]) -> CertificateLog:
        """The certificate after the tasks `done`."""
        return CertificateLog()

    def replaced(self, tracked: TrackedLearner) -> frozenset[str]:
        """Names of the tensors that existed after the last stage and are gone or have other bits now."""
        return frozenset()

    def parameters(self, stage: Stage, tracked: TrackedLearner) -> None:
        """How many parameters a stage trains, and how many there are."""
        trainable = sum(parameter.numel() for parameter in tracked.trainable())
        self.parameter_counts({"task": stage.name, "trainable": trainable, "all": tracked.count})

    def parameter_counts(self, counts: Mapping[str, Any]) -> None:
        """A line of ``parameters.jsonl``."""

    def threads_changed(self, stage: Stage, step: int, threads: Threads) -> None:
        """The number of threads has changed before a step of a stage: a new segment of the run begins."""

    def training_metrics(self, line: Mapping[str, Any], shown: Mapping[str, float]) -> None:
        """A line of ``metrics.jsonl``: task, step, lr, mean_loss (if there are losses) and other metrics.
        `shown` goes into the progress line.
        """

    def metrics_line(self, line: Mapping[str, Any]) -> None:
        """`training_metrics` without the progress line, where a worker process has trained."""

    def within(self, line: Mapping[str, Any]) -> None:
        """A line of ``within.jsonl`` (see `storage.within`)."""

    def evaluation(
        self,
        after: int,
        task: str,
        split: str,
        metrics: Mapping[str, float | None],
        not_finite: str = "",
    ) -> None:
        """An evaluation of a split: a cell of R, where `after` is the index of the task trained last.
        `not_finite` is why metrics are None, which are gaps.
        """

    def unchanged(self, after: int) -> None:
        """The tasks trained before row `after` of R that were not evaluated have the values of the row
        before.
        """

    def gap(self, task: Task, split: str, reason: str) -> None:
        """The metric of an evaluation is not finite, because of `reason`: warn once for each task."""

    def document(self, task: str, split: str, name: str, text: str) -> None:
        """A document of an evaluation (see `HasDocuments`), in place of an earlier one."""

    def save_mid_task(
        self, tracked: TrackedLearner, stage: Stage, seen: Sequence[Task], state: MidTaskState
    ) -> None:
        """Replace the checkpoint within a stage."""

    def save_boundary(self, boundary: Boundary, context: Context) -> None:
        """Record what a stage has done: visualisations, changed tensors, the certificate and, last, the
        checkpoint.
        """

    def finish_stage(self, task: str, row: int, text: str) -> None:
        """Training and evaluation of a stage are over, whose last task has this row of R; `text` stays
        visible."""

    def worker_time(self, seconds: float) -> None:
        """Add processor time of worker processes."""

    def draw_results(self) -> None:
        """One TensorBoard curve for each task: its metric, as measured, after tasks of the stream."""

    def report_missing(self) -> None:
        """Report files of the certificate that are gone, at the end of the run."""
