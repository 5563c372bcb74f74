"""Worker processes of this machine, which are forked from the run.

A fork shares what the run has read and computed so far, without a copy: the data, the learner, the features
in memory. A process that is started afresh would read the data once more and could not be given objects of
Python. Forking is safe here because a worker touches none of what a fork breaks: it computes in a new
thread, since OpenMP's threads of the forking thread are not there any more (it would wait for them for
ever); it writes neither TensorBoard files nor progress; and it leaves by `os._exit`. A GPU cannot be used
after a fork, nor can the environments of rollout tasks, which are refused.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, BinaryIO, cast

import attrs
import torch

from sidetune_core.errors import OptionError
from sidetune_core.interfaces.capabilities import LosesState
from sidetune_core.system.signals import SIGNALS, StopRequest, StopRequested
from sidetune_core.training.job import Job
from sidetune_core.training.workers.executor import Assignment, Message
from sidetune_core.training.workers.portable_error import portable
from sidetune_core.training.workers.stage_worker import StageWorker

POLL = 0.1
"""Seconds between two looks of a worker at its parent process."""

STEP_INTERVAL = 0.5
"""Seconds between two reports of steps."""

NUMBER = 4
"""Bytes of a number in the queue of stages."""


@attrs.define(eq=False)
class _Worker:
    process: ForkProcess
    reports: Connection
    stage: int = 0
    """The stage that it trains."""


class LocalWorkers:
    """Forks of this process (see `Executor`).

    Args:
        count: number of workers.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[_Worker] = []
        self._queue: BinaryIO | None = None

    def begin(self, worker: StageWorker, assignments: Sequence[Assignment]) -> None:
        """The workers take the numbers of their stages from a file, whose position they share."""
        self._queue = cast(BinaryIO, tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - `close` closes it
        for number in range(len(assignments)):
            self._queue.write(number.to_bytes(NUMBER, "little"))
        self._queue.seek(0)
        context = get_context("fork")
        sys.stdout.flush()
        sys.stderr.flush()
        for _ in range(min(self._count, len(assignments))):
            receiving, sending = context.Pipe(duplex=False)
            target = _Child(worker, assignments, self._queue, sending, os.getpid())
            process = context.Process(target=target.run)
            with _signals_blocked(), warnings.catch_warnings():
                # a warning of other threads, of which the worker needs none
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            sending.close()
            self._workers.append(_Worker(process, receiving))

    def wait(self, seconds: float) -> list[Message]:
        """See `Executor`."""
        messages: list[Message] = []
        open_ends: list[Any] = [worker.reports for worker in self._workers]
        for ready in wait(open_ends, seconds):
            worker = next(one for one in self._workers if one.reports is ready)
            messages += self._read(worker)
        return messages

    def _read(self, worker: _Worker) -> list[Message]:
        messages: list[Message] = []
        try:
            while worker.reports.poll():
                message: Message | None = worker.reports.recv()
                if message is None:  # it leaves
                    self._remove(worker)
                    break
                worker.stage = message.stage
                messages.append(message)
        except (EOFError, OSError):
            self._remove(worker)
            code = worker.process.exitcode
            cause = signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"
            messages.append(Message(worker.stage, "killed", cause=cause))
        return messages

    def _remove(self, worker: _Worker) -> None:
        worker.process.join()
        worker.reports.close()
        self._workers.remove(worker)

    def withdraw(self) -> None:
        """See `Executor`."""
        if self._queue is not None:
            self._queue.seek(0, os.SEEK_END)

    def stop(self, number: int) -> None:
        """See `Executor`."""
        self.withdraw()
        for worker in self._workers:
            worker.process.terminate()

    @property
    def is_running(self) -> bool:
        """See `Executor`."""
        return bool(self._workers)

    def close(self) -> None:
        """See `Executor`."""
        for worker in list(self._workers):
            worker.process.kill()
            self._remove(worker)
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def __str__(self) -> str:
        return f"{self._count} workers"


@attrs.frozen(eq=False)
class _Child:
    """What a worker process does."""

    worker: StageWorker
    assignments: Sequence[Assignment]
    queue: BinaryIO
    reports: Connection
    parent: int

    def run(self) -> None:
        stop, threads = StopRequest(), torch.get_num_threads()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent forwards it
        signal.signal(signal.SIGTERM, lambda number, _: setattr(stop, "number", number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.worker.context = attrs.evolve(self.worker.context, stop=stop)
        thread = threading.Thread(target=self._train_all, args=(stop, threads))
        thread.start()
        while thread.is_alive():
            thread.join(POLL)
            if os.getppid() != self.parent:
                os._exit(1)
        with suppress(BrokenPipeError):  # the parent process has ended
            self.reports.send(None)

    def _train_all(self, stop: StopRequest, threads: int) -> None:
        torch.set_num_threads(threads)
        with suppress(BrokenPipeError):  # the parent process has ended
            while stop.number is None and (number := _next_number(self.queue)) is not None:
                if not self._train(self.assignments[number]):
                    return

    def _train(self, assignment: Assignment) -> bool:
        """Train a stage; returns whether it is finished."""
        count, worked, reported = assignment.count, time.process_time(), 0.0

        def report(kind: Any, **values: Any) -> None:
            nonlocal worked
            now = time.process_time()
            self.reports.send(Message(count, kind, seconds=now - worked, **values))
            worked = now

        def progress(done: int, total: int) -> None:
            nonlocal reported
            if time.monotonic() - reported > STEP_INTERVAL:
                reported = time.monotonic()
                report("step", done=done, total=total)

        try:
            self.worker.train(assignment.stage, assignment.resumed, assignment.since, progress)
            report("done")
            return True
        except StopRequested:
            report("stopped")
        except BrokenPipeError:
            raise
        except BaseException as error:
            report("failed", error=portable(error, assignment.stage.name))
        return False


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A block in which a signal waits until a worker has its own handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_forkable(job: Job, option: str) -> None:
    """Check that a run can be computed in forks of this process.

    Raises:
        OptionError: it computes on a GPU, has tasks with environments, or the system has no fork.
    """
    others = "leave it out, or use --workers ray, which starts processes afresh"
    if not hasattr(os, "fork") or sys.platform == "darwin":
        raise OptionError(f"{option} needs fork(), which is not safe on {sys.platform}: {others}")
    if job.machine.device.type != "cpu":
        raise OptionError(
            f"{option} forks processes, which cannot use {job.machine.device.type}: {others}; or compute on "
            "the CPU with --device.name cpu"
        )
    if stateful := [task.id for task in job.tasks if isinstance(task, LosesState)]:
        raise OptionError(
            f"{option} forks processes, and {len(stateful)} of {len(job.tasks)} tasks ({stateful[0]}) have "
            f"environments, which cannot be forked: {others}"
        )


def _next_number(queue: BinaryIO) -> int | None:
    """The next number in the queue of stages; None at its end."""
    data = queue.read(NUMBER)
    return int.from_bytes(data, "little") if data else None
