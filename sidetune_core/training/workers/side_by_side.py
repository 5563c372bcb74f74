"""Stages of independent tasks, trained side by side: the main process closes them in order."""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sidetune_core.errors import RunError
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage.checkpoint import Checkpoint
from sidetune_core.storage.run_folder import RunFolder, resume_command
from sidetune_core.system.signals import StopRequest, StopRequested
from sidetune_core.training.context import Context
from sidetune_core.training.job import Job
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.stage import Stage
from sidetune_core.training.workers.count import Count, make_executor
from sidetune_core.training.workers.executor import Assignment, Executor
from sidetune_core.training.workers.stage_worker import StageWorker

WAIT = 0.2
"""Seconds between two looks at stop requests."""


class SideBySide:
    """Trains stages with an executor (see `loop.Workers`).

    Args:
        job: of the run.
        executor: of the workers.
        shared_features: folder of features that the workers share; None where no two tasks share any.
    """

    def __init__(self, job: Job, executor: Executor, shared_features: Path | None) -> None:
        self.shared_features = shared_features
        self._job, self._executor = job, executor
        self._finished: set[int] = set()
        self._failed: dict[int, BaseException] = {}
        self._steps: dict[int, tuple[int, int]] = {}
        self._shown: tuple[int, ...] = ()
        self._stop = StopRequest()
        self._recorder = Recorder(RunFolder(Path()))

    def __str__(self) -> str:
        return str(self._executor)

    def begin(
        self,
        learner: Learner,
        shared: Collection[str],
        tasks: Sequence[Task],
        stages: Sequence[Stage],
        resumed: Checkpoint | None,
        context: Context,
        recorder: Recorder,
    ) -> None:
        """See `loop.Workers`."""
        self._stop, self._recorder = context.stop, recorder
        assignments = []
        for stage in stages:
            count = tasks.index(stage.last) + 1
            mid_task = resumed.mid_task if resumed is not None and stage is stages[0] else None
            since = mid_task.step if mid_task is not None else 0
            handover = recorder.handover(count, since)
            if handover is not None and handover.mid_task is None:
                self._finished.add(count)
                continue
            start = handover or (resumed if mid_task is not None else None)
            assignments.append(Assignment(stage, count, start, since))
        if assignments:
            if context.cache is not None:
                context.cache.save()  # what is in files is not written once more by each worker
            started = len(tasks) - sum(len(stage.tasks) for stage in stages)
            worker = StageWorker(
                learner, shared, tasks, started, context, recorder.folder, self._job.identity
            )
            self._executor.begin(worker, assignments)

    def wait_for(self, count: int) -> None:
        """See `loop.Workers`."""
        while count not in self._finished:
            if count in self._failed:
                raise self._failed[count]
            if not self._executor.is_running:
                raise RunError(self._ended(f"the worker process of task {self._task(count)} was stopped"))
            self._receive(WAIT)
            if self._stop.number is not None:
                self.end(self._stop.number)
                raise StopRequested(self._stop.number)
        self._show()

    def end(self, number: int) -> None:
        """Have the workers save their state, and wait until they have ended; a second signal ends that."""
        self._executor.stop(number)
        while self._executor.is_running:
            self._receive(WAIT, stopping=True)
        self._job.progress.clear()

    def close(self) -> None:
        """End all workers at once."""
        self._executor.close()

    def _receive(self, seconds: float, stopping: bool = False) -> None:
        for message in self._executor.wait(seconds):
            self._recorder.worker_time(message.seconds)
            if message.kind == "step":
                self._steps[message.stage] = (message.done, message.total)
                continue
            self._steps.pop(message.stage, None)
            if message.kind == "done":
                self._finished.add(message.stage)
            elif message.kind == "failed":
                assert message.error is not None
                self._failed[message.stage] = message.error
                self._executor.withdraw()  # one after another, the later stages would not be trained either
            elif message.kind == "killed" and not stopping:
                task = f"trained task {self._task(message.stage)}" if message.stage else "had no task yet"
                raise RunError(
                    self._ended(
                        f"a worker process, which {task}, was killed by {message.cause}, perhaps for lack of "
                        "memory"
                    )
                )
        self._show()

    def _ended(self, what: str) -> str:
        again = resume_command(self._recorder.folder.path, self._job.resolved.needs_trust)
        return f"{what}. What was saved stays; resume with fewer workers: {again} --workers 1"

    def _task(self, count: int) -> str:
        return self._job.tasks[count - 1].id

    def _show(self) -> None:
        """One progress line for all stages in training."""
        stages = tuple(sorted(self._steps))
        progress, total = self._job.progress, sum(total for _, total in self._steps.values())
        if not stages:
            progress.clear()
        elif stages != self._shown:
            progress.clear()
            progress.start(f"tasks {', '.join(map(str, stages))}", total)
        self._shown = stages
        if stages:
            progress.step(sum(done for done, _ in self._steps.values()), None)


@contextmanager
def side_by_side(job: Job, workers: Count) -> Iterator[SideBySide | None]:
    """The workers of a run for a block, None for a single one. Where the block fails, they save their state
    before they end.
    """
    if workers == 1:
        yield None
        return
    with ExitStack() as stack:
        shared = None
        if job.shared_ids and workers != "ray":  # in pages that the system shares between processes
            shared = Path(stack.enter_context(TemporaryDirectory(prefix="sidetune-")))
        team = SideBySide(job, make_executor(job, workers), shared)
        stack.callback(team.close)
        try:
            yield team
        except BaseException as error:
            team.end(error.number if isinstance(error, StopRequested) else signal.SIGTERM)
            raise
