"""Where a run is written to and shown: its folder, TensorBoard, progress, and the time it takes.

The loop calls a `Recorder` in every process. The first process of a run has a `RunRecorder`; in the others
nothing is recorded, so that neither the loop nor the steps ask which process they run in.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor, nn

from sidetune_core.assembly.predict import make_predict
from sidetune_core.certificate.issue import certify
from sidetune_core.certificate.probes import ProbeRecorder
from sidetune_core.certificate.record import FILE as CERTIFICATE
from sidetune_core.certificate.record import new_warnings
from sidetune_core.config.identity import Identity
from sidetune_core.interfaces.capabilities import HasVisualisations, task_states
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.results.summary import read_results
from sidetune_core.storage import checkpoint, images
from sidetune_core.storage.atomic import writing
from sidetune_core.storage.checkpoint import Checkpoint, MidTaskState
from sidetune_core.storage.run_folder import Clock, RunFolder
from sidetune_core.system.progress import Progress
from sidetune_core.training.context import Context
from sidetune_core.training.optimizer import count_trainable
from sidetune_core.training.stage import Stage
from sidetune_core.training.trainable import digests

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


TENSORBOARD = "tb"
"""Sub-folder of a run folder with TensorBoard files."""


@attrs.frozen(eq=False)
class Boundary:
    """A learner after a stage, with what is needed to record what the stage did."""

    learner: Learner
    stage: Stage
    seen: Sequence[Task]
    """The tasks trained so far, those of the stage last."""
    probes: Mapping[str, ProbeRecorder]
    """By id of a task in `seen`, the predictions that it has just been evaluated with."""
    before: Mapping[str, str]
    """Digests of all tensors before the stage."""


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

    def info(self, text: str) -> None:
        """Show a line of progress."""

    def warning(self, text: str) -> None:
        """Show a warning, even when quiet, and keep it in the log."""

    def start_stage(self, title: str, steps: int) -> None:
        """Training of `steps` steps begins."""

    def parameters(self, stage: Stage, learner: nn.Module) -> None:
        """How many parameters a stage trains, and how many there are."""

    def training_metrics(self, line: Mapping[str, Any], shown: Mapping[str, float]) -> None:
        """A line of ``metrics.jsonl``: task, step, lr, mean_loss (if there are losses) and other metrics.
        `shown` goes into the progress line.
        """

    def evaluation(self, after: int, task: str, split: str, metrics: Mapping[str, float]) -> None:
        """An evaluation of a split: a cell of R, where `after` is the index of the task trained last."""

    def document(self, task: str, split: str, name: str, text: str) -> None:
        """A document of an evaluation (see `HasDocuments`), in place of an earlier one."""

    def save_mid_task(
        self, learner: nn.Module, stage: Stage, seen: Sequence[Task], state: MidTaskState
    ) -> None:
        """Replace the checkpoint within a stage."""

    def save_boundary(self, boundary: Boundary, context: Context) -> None:
        """Record what a stage has done: visualisations, changed tensors, the certificate and, last, the
        checkpoint.
        """

    def finish_stage(self, text: str) -> None:
        """Training and evaluation of a stage are over; `text` stays visible."""

    def draw_results(self) -> None:
        """One TensorBoard curve for each task: its metric after each task of the stream."""


class RunRecorder(Recorder):
    """Writes the run folder and TensorBoard files, and shows progress.

    Args:
        folder: of the run.
        progress: shows it.
        clock: notes the time that the run takes.
        board: returns TensorBoard's writer; None for no TensorBoard files.
        identity: of the run, which every checkpoint records.

    Raises, in every method that writes:
        WriteError: the disk is full, or the folder is not writable; what was there stays.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        clock: Clock,
        board: Callable[[], SummaryWriter] | None = None,
        identity: Identity | None = None,
    ) -> None:
        super().__init__(folder)
        self._progress, self._clock, self._board, self._identity = progress, clock, board, identity

    def latest_checkpoint(self) -> Checkpoint | None:
        return checkpoint.find(self.folder.checkpoints, self._progress.warning)

    def rewind(self, start: Checkpoint | None) -> None:
        """Cut the ``.jsonl`` files back to the checkpoint and draw the curves again from what is left."""
        for name in self.folder.rewind(start.marks if start else {}):
            path = self.folder.path / name
            self._progress.warning(f"{path} changed since the checkpoint; the lost lines cannot be recovered")
        for line in self.folder.lines("metrics.jsonl"):
            self._draw(line)
        step = len(start.done) if start else 0
        for task_id, name, image in images.saved_images(self.folder):
            self._show(f"{task_id}/{name}", image, step)

    def info(self, text: str) -> None:
        self._progress.info(text)

    def warning(self, text: str) -> None:
        self._progress.warning(f"warning: {text}")
        self.folder.log(f"warning: {text}")

    def start_stage(self, title: str, steps: int) -> None:
        self._progress.start(title, steps)

    def parameters(self, stage: Stage, learner: nn.Module) -> None:
        total = sum(parameter.numel() for parameter in learner.parameters())
        counts = {"task": stage.name, "trainable": count_trainable(learner), "all": total}
        self.folder.append("parameters.jsonl", counts)

    def training_metrics(self, line: Mapping[str, Any], shown: Mapping[str, float]) -> None:
        self.folder.append("metrics.jsonl", line)
        self._draw(line)
        self._progress.step(line["step"], line.get("mean_loss"), shown)

    def evaluation(self, after: int, task: str, split: str, metrics: Mapping[str, float]) -> None:
        cell = {"after": after, "task": task, "split": split, "figures": dict(metrics)}
        self.folder.append("eval.jsonl", cell)

    def document(self, task: str, split: str, name: str, text: str) -> None:
        self.folder.write_document(f"{task}-{split}", name, text)

    def save_mid_task(
        self, learner: nn.Module, stage: Stage, seen: Sequence[Task], state: MidTaskState
    ) -> None:
        done = [task.id for task in seen[: -len(stage.tasks)]]
        folder, states = self.folder, task_states(seen)
        checkpoint.save_mid_task(
            folder.checkpoints, learner, done, folder.marks(), states, self._identity, state
        )
        self._clock.note()

    def save_boundary(self, boundary: Boundary, context: Context) -> None:
        """The checkpoint comes last: a run that is killed before it repeats the end of the stage."""
        learner, seen, folder = boundary.learner, boundary.seen, self.folder
        if context.cache is not None:
            context.cache.save()
        for task in seen:
            if not isinstance(task, HasVisualisations):
                continue
            drawn = task.visualisations(make_predict(learner, task, context.machine))
            for name, image in drawn.items():
                images.save_image(folder, task.id, name, image)
                self._show(f"{task.id}/{name}", image, len(seen))
        after = digests(learner)
        changed = sorted(name for name in after if boundary.before.get(name) != after[name])
        unchanged = sorted(after.keys() - set(changed))
        folder.append("moved.jsonl", {"task": boundary.stage.name, "moved": changed, "kept": unchanged})
        tasks = boundary.stage.tasks
        certificate = certify(learner, tasks, boundary.probes, folder, context.machine.arithmetic)
        for line in new_warnings(certificate):
            self.warning(line)
        done = [task.id for task in seen]
        marks = folder.marks(CERTIFICATE)
        checkpoint.save(folder.checkpoints, learner, done, marks, task_states(seen), self._identity)
        checkpoint.delete_mid_task(folder.checkpoints)

    def finish_stage(self, text: str) -> None:
        self._clock.note()
        self._progress.finish(text)

    def draw_results(self) -> None:
        results = read_results(self.folder)
        for step, row in enumerate(results.rows):
            for task, value in zip(results.tasks, row, strict=True):
                if value is not None:
                    self._scalars({f"R/{task}": value}, step)

    def _draw(self, line: Mapping[str, Any]) -> None:
        """A line of ``metrics.jsonl`` as points of curves, one for each metric of its task."""
        metrics = {
            name: value for name, value in line.items() if name not in ("task", "step", "lr", "mean_loss")
        }
        self._scalars({f"{line['task']}/{name}": value for name, value in metrics.items()}, line["step"])

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            with writing(self.folder.path / TENSORBOARD):
                for name, value in values.items():
                    self._board().add_scalar(name, value, step)

    def _show(self, name: str, image: Tensor, step: int) -> None:
        if self._board is not None:
            with writing(self.folder.path / TENSORBOARD):
                self._board().add_image(name, image, step)


@contextmanager
def tensorboard(folder: RunFolder) -> Iterator[Callable[[], SummaryWriter]]:
    """Replace the TensorBoard files of a run; `RunRecorder.rewind` draws the past again.

    The writer is made when it is first called for, because importing it delays the first step.
    """
    path = folder.path / TENSORBOARD
    with writing(path):
        if path.is_dir():
            shutil.rmtree(path)

    @cache
    def board() -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(path))

    try:
        yield board
    finally:
        if board.cache_info().currsize:
            with writing(path):
                board().close()
