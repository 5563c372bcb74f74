"""The recorder of the first process of a run, which writes the run folder and TensorBoard files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor

from sidetune_core.assembly.finite import FiniteCheck
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.stored import stored_bytes
from sidetune_core.certificate.certificate_file import FILE as CERTIFICATE
from sidetune_core.certificate.issue import Ended, certify
from sidetune_core.certificate.log import CertificateLog, Table
from sidetune_core.certificate.repair import load, missing
from sidetune_core.certificate.report_lines import new_warnings
from sidetune_core.config.identity import Identity
from sidetune_core.config.plugin_record import add_segment, segment_of, since
from sidetune_core.config.selection import read_selection
from sidetune_core.errors import RunError, WeightsError, WriteError
from sidetune_core.interfaces.capabilities import HasVisualisations, task_states
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage import checkpoint, images
from sidetune_core.storage.ahead import ahead_path, delete_ahead
from sidetune_core.storage.atomic import sync_folders, writing
from sidetune_core.storage.chain import Chain
from sidetune_core.storage.checkpoint import Checkpoint, MidTaskState
from sidetune_core.storage.clock import Clock
from sidetune_core.storage.compaction import Disk, Keep, drop_superseded
from sidetune_core.storage.evaluations import FILE, read_evaluations, unchanged_line
from sidetune_core.storage.marks import Marks, RunningDigest, rewind, take_marks
from sidetune_core.storage.run_files import (
    CERTIFICATE_LOG,
    DOCUMENTS,
    IMAGES,
    LINES,
    SECONDS,
    STORED,
    WITHIN,
)
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.unusable import Unusable
from sidetune_core.system.progress import Progress
from sidetune_core.system.threads import Threads
from sidetune_core.training.boundary import Boundary
from sidetune_core.training.by_products import ByProducts
from sidetune_core.training.callbacks import Callbacks
from sidetune_core.training.context import Context
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.stage import Stage
from sidetune_core.training.tensorboard_files import Curves
from sidetune_core.training.tracked import Journal, Moment, TrackedLearner
from sidetune_core.training.workers.handover import Handover, read_handover

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunRecorder(Recorder):
    """Writes the run folder and TensorBoard files, and shows progress.

    Args:
        folder: of the run.
        progress: shows it.
        clock: notes the time that the run takes.
        board: returns TensorBoard's writer; None for no TensorBoard files.
        identity: of the run, which every checkpoint records.
        by_products: reports what the run continues without; None for a new one.
        keep: whether earlier checkpoints keep the tensors that later tasks replace; see `run`.
        callbacks: see `run`.

    Raises, in every method that writes R, metrics or checkpoints:
        WriteError: the disk is full, or the folder is not writable; what was there stays.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        clock: Clock,
        board: Callable[[], SummaryWriter] | None = None,
        identity: Identity | None = None,
        by_products: ByProducts | None = None,
        keep: Keep = "all",
        callbacks: Callbacks | None = None,
    ) -> None:
        super().__init__(folder)
        self._progress, self._clock, self._identity = progress, clock, identity
        self._callbacks = callbacks
        self._with_gaps: set[str] = set()
        self._chain, self._keep = Chain(folder.checkpoints), keep
        self._read = {name: RunningDigest() for name in LINES}
        self._log: CertificateLog | None = None
        self._since_checkpoint: Journal | None = None
        self._since_certificate: Journal | None = None
        self._files: set[str] = set()
        self._unsynced: set[Path] = set()
        self._by_products = by_products if by_products is not None else ByProducts(self.warning)
        self._curves = Curves(folder, board, self._by_products)

    def latest_checkpoint(self) -> Checkpoint | None:
        found, self._chain = checkpoint.find_with_chain(self.folder.checkpoints, self._progress.warning)
        return found

    def rewind(self, start: Checkpoint | None) -> None:
        """Cut the ``.jsonl`` files back to the checkpoint and draw the curves again from what is left."""
        if start is not None and start.mid_task is None:  # the process was killed before it deleted the other
            checkpoint.delete_mid_task(self.folder.checkpoints)
        self._log = self._since_checkpoint = self._since_certificate = None
        self._drop_superseded(newest_only=False)
        for name in rewind(self.folder, start.marks if start else {}):
            path = self.folder.path / name
            self._progress.warning(f"{path} changed since the checkpoint; the lost lines cannot be recovered")
        for line in self.folder.lines("metrics.jsonl"):
            self._curves.training(line)
        for line in self.folder.lines(WITHIN):
            self._curves.within(line)
        step = len(start.done) if start else 0
        with self._by_products.optional(self.folder.path / IMAGES):
            for task_id, name, image in images.saved_images(self.folder):
                self._curves.image(f"{task_id}/{name}", image, step)

    def handover(self, count: int, since: int) -> Handover | None:
        path = ahead_path(self.folder.checkpoints, count)
        if not path.is_file():
            return None
        try:
            found = read_handover(path)
        except Unusable as error:
            self._progress.warning(f"{error}; it is ignored")
            return None
        if self._identity is None or found.identity != self._identity.to_json():
            self.warning(f"{path} was trained under other conditions; it is ignored")
            return None
        return found if found.since == since else None

    def info(self, text: str) -> None:
        self._progress.info(text)

    def warning(self, text: str) -> None:
        self._progress.warning(f"warning: {text}")
        with suppress(WriteError):  # reported when the run began
            self.folder.log(f"warning: {text}")

    def start_stage(self, title: str, steps: int) -> None:
        self._progress.start(title, steps)

    def finishing(self, title: str, batches: int) -> None:
        self._progress.batch(f"{title}: after training", batches)

    def certificate(self, done: Sequence[str]) -> CertificateLog:
        if self._log is None or self._log.trained != list(done):
            self._log = load(self.folder, done, self._chain, self.warning)
            self._since_certificate = None
        return self._log

    def replaced(self, tracked: TrackedLearner) -> frozenset[str]:
        log = self._log if self._log is not None else CertificateLog()
        return self._certified(tracked, log).difference(tracked.named_digests).replaced

    def parameter_counts(self, counts: Mapping[str, Any]) -> None:
        self.folder.append("parameters.jsonl", counts)

    def threads_changed(self, stage: Stage, step: int, threads: Threads) -> None:
        if self._identity is None:
            return
        self._identity = attrs.evolve(self._identity, threads=threads.number)
        about = self.folder.read_json("run.json")
        segment = attrs.evolve(segment_of(self._identity), task=stage.tasks[0].id, step=step)
        add_segment(about, segment)
        self.folder.write_json("run.json", about)
        line = f"{since(segment)}: {threads}"
        self._progress.info(line)
        with suppress(WriteError):  # reported when the run began
            self.folder.log(line)

    def metrics_line(self, line: Mapping[str, Any]) -> None:
        self.folder.append("metrics.jsonl", line)
        self._curves.training(line)
        if self._callbacks is not None:
            self._callbacks.step(line)

    def within(self, line: Mapping[str, Any]) -> None:
        self.folder.append(WITHIN, line)
        self._curves.within(line)

    def training_metrics(self, line: Mapping[str, Any], shown: Mapping[str, float]) -> None:
        self.metrics_line(line)
        self._progress.step(line["step"], line.get("mean_loss"), shown)

    def evaluation(
        self,
        after: int,
        task: str,
        split: str,
        metrics: Mapping[str, float | None],
        not_finite: str = "",
    ) -> None:
        cell = {"after": after, "task": task, "split": split, "figures": dict(metrics)}
        if not_finite:
            cell["not_finite"] = not_finite
        self.folder.append(FILE, cell)
        if not_finite and set(metrics.values()) == {None}:
            with self._by_products.optional(self.folder.path / DOCUMENTS):
                self._note_files(self.folder.delete_documents(f"{task}-{split}"))

    def unchanged(self, after: int) -> None:
        self.folder.append(FILE, unchanged_line(after))

    def gap(self, task: Task, split: str, reason: str) -> None:
        if task.id not in self._with_gaps:
            self.warning(
                f"task {task.id} ({task.title}), split {split}: {reason}, so its {task.metric} is a gap in "
                "R, and the run ends as diverged"
            )
        self._with_gaps.add(task.id)

    def document(self, task: str, split: str, name: str, text: str) -> None:
        with self._by_products.optional(self.folder.path / DOCUMENTS):
            path = self.folder.write_document(f"{task}-{split}", name, text, self._unsynced)
            self._note_files([path])

    def save_mid_task(
        self, tracked: TrackedLearner, stage: Stage, seen: Sequence[Task], state: MidTaskState
    ) -> None:
        done = [task.id for task in seen[: -len(stage.tasks)]]
        tracked.refresh()
        journal = self._saved(tracked)
        is_followed = isinstance(state.before, Moment)
        checkpoint.save_mid_task(
            self.folder.checkpoints,
            tracked.changes(journal),
            done,
            self._marks(),
            task_states(seen),
            self._identity,
            state,
            self._chain,
            tracked.in_order(journal.before) if is_followed else None,
        )
        self._note_time()

    def save_boundary(self, boundary: Boundary, context: Context) -> None:
        """The checkpoint comes last: a run that is killed before it repeats the end of the stage."""
        tracked, seen, folder = boundary.tracked, boundary.seen, self.folder
        learner = tracked.learner
        if context.cache is not None:
            context.cache.save()
        # visualisations show examples of the test split, which a run that selects options does not touch
        drawn_tasks = seen if context.selection.measure == "test" else ()
        for task in drawn_tasks:
            measured = boundary.measured is None or task.id in boundary.measured
            if not measured or not isinstance(task, HasVisualisations):
                continue
            drawn = _visualisations(
                task, FiniteCheck(make_predict(learner, task, context.machine), task.outputs)
            )
            if not drawn:
                with self._by_products.optional(folder.path / IMAGES):
                    self._note_files(images.delete_images(folder, task.id))
            for name, image in drawn.items():
                with self._by_products.optional(folder.path / IMAGES):
                    self._note_files([images.save_image(folder, task.id, name, image)])
                self._curves.image(f"{task.id}/{name}", image, len(seen))
        done = [task.id for task in seen]
        self._certify(boundary, done[: len(seen) - len(boundary.stage.tasks)], context)
        journal = self._saved(tracked)
        touched = {name for name in journal.before if name not in tracked.transient}
        now, before = tracked.digests, boundary.before
        names = touched if isinstance(before, Moment) else tracked.state_digests().keys()
        changed = sorted(name for name in names if name in now and before.get(name) != now[name])
        difference = journal.difference(now)
        line = {
            "task": boundary.stage.name,
            "moved": changed,
            "kept": tracked.state_count - len(changed),
            "new": sorted(difference.new & touched),
            "gone": sorted(difference.gone & touched),
        }
        folder.append("moved.jsonl", line)
        if boundary.is_full:
            stored = stored_bytes(learner, boundary.stage.last.inputs)
            folder.append(STORED, {"task": boundary.stage.name, **attrs.asdict(stored)})
        checkpoint.save(
            folder.checkpoints,
            tracked.changes(journal),
            done,
            self._marks(CERTIFICATE) if boundary.is_full else self._marks(),
            task_states(seen),
            self._identity,
            self._chain,
            base=set(boundary.at_start) - set(changed),
        )
        tracked.forget(journal)
        self._since_checkpoint = None
        if isinstance(before, Moment):
            before.end()
        self._since_checkpoint = tracked.journal()
        self._drop_superseded(newest_only=True)
        checkpoint.delete_mid_task(folder.checkpoints)
        delete_ahead(folder.checkpoints, len(done))

    def finish_stage(self, task: str, row: int, text: str) -> None:
        self._note_time()
        self._progress.finish(text)
        if self._callbacks is not None:
            self._callbacks.row(task, row)

    def worker_time(self, seconds: float) -> None:
        self._clock.add(seconds)

    def draw_results(self) -> None:
        about = self.folder.read_json("run.json")
        metrics = {task["id"]: task["metric"] for task in about["tasks"]}
        measure = read_selection(about).measure
        for line in read_evaluations(self.folder).lines:
            if line["split"] == measure and line["after"] >= 0:
                value = line["figures"][metrics[line["task"]]]
                self._curves.points({f"R/{line['task']}": value}, line["after"])

    def report_missing(self) -> None:
        with suppress(RunError):  # a damaged certificate is left out of the report, which says so
            for line in missing(self.folder):
                self.warning(line)

    def _drop_superseded(self, newest_only: bool) -> None:
        """Drop what later checkpoints replace, unless all is kept (see `compaction.drop_superseded`)."""
        if self._keep == "all":
            return
        try:
            with writing(self.folder.checkpoints):
                drop_superseded(self._chain, Disk(), newest_only)
        except Unusable as error:
            self.warning(f"{error}; tensors that later tasks have replaced are not dropped")

    def _note_time(self) -> None:
        with self._by_products.optional(self.folder.path / SECONDS):
            self._clock.note()

    def _note_files(self, paths: Iterable[Path]) -> None:
        """Note documents and visualisations that were written or deleted."""
        self._files |= {path.relative_to(self.folder.path).as_posix() for path in paths}

    def _saved(self, tracked: TrackedLearner) -> Journal:
        """What has changed since the newest checkpoint after a task."""
        if self._since_checkpoint is None:
            self._since_checkpoint = tracked.journal(self._chain.digests)
        return self._since_checkpoint

    def _certified(self, tracked: TrackedLearner, log: CertificateLog) -> Journal:
        """What has changed since the last line of the certificate."""
        if self._since_certificate is None:
            self._since_certificate = tracked.journal(log.now, tracked.named_digests)
        return self._since_certificate

    def _marks(self, *further: str) -> Marks:
        with self._by_products.optional(self.folder.path / DOCUMENTS):
            sync_folders(self._unsynced)
        return take_marks(self.folder, *further, read=self._read)

    def _certify(self, boundary: Boundary, before: Sequence[str], context: Context) -> None:
        """Continue the certificate after a stage, which follows the tasks `before`; none if its files cannot
        be read or written, rather than one of an earlier stage.
        """
        path, tracked = self.folder.path / CERTIFICATE, boundary.tracked
        log = self.certificate(before)

        def changed() -> Table:
            names = self._certified(tracked, log).difference(tracked.named_digests)
            digests = tracked.named_digests
            return Table(
                {name: digests[name] for name in sorted(names.new | names.changed)}, sorted(names.gone)
            )

        ended = Ended(
            boundary.stage.tasks,
            boundary.probes,
            boundary.replays,
            changed,
            boundary.outside,
            boundary.measured,
            self._files,
        )
        full = boundary.is_full or log.is_unwritten
        try:
            certify(
                tracked,
                ended,
                self.folder,
                self._chain,
                log,
                context.machine.coarsest_arithmetic,
                self._identity,
                context.seed,
                full,
                self.warning,
            )
        except (WriteError, WeightsError, OSError) as error:
            self._by_products.leave_out(path, error)
            for file in (path, self.folder.path / CERTIFICATE_LOG):
                with suppress(OSError):
                    file.unlink(missing_ok=True)
            self._log = CertificateLog()
            return
        finally:
            if self._since_certificate is not None:
                tracked.forget(self._since_certificate)
            self._since_certificate, self._files = tracked.journal(), set()
        stage = boundary.stage
        for line in new_warnings(log.records, [task.id for task in stage.tasks]):
            self.warning(line)


def _visualisations(task: HasVisualisations, predict: FiniteCheck) -> Mapping[str, Tensor]:
    """The images of a task; none if an output is not finite, as then it has no metric either."""
    try:
        drawn = task.visualisations(predict)
    except Exception:
        if not predict.reason:
            raise
        return {}
    return {} if predict.reason else drawn
