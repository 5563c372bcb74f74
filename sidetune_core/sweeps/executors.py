"""Executors of the runs of a sweep: processes of this machine, or Ray."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sidetune_core.io.printable import counted
from sidetune_core.system.processors import PROCESSES, available
from sidetune_core.system.ray_cluster import connect

POLL_SECONDS = 0.5
"""How often `should_stop` is asked."""

CORES_PER_RUN = 4
"""Without a GPU. More concurrent runs would be faster, but each needs a gigabyte or more."""


def never() -> bool:
    """The `should_stop` of runs that come to their end."""
    return False


class Executor(Protocol):
    """Executes runs, each in a process of its own. Both methods are thread-safe."""

    workers: int
    """Number of concurrent runs."""
    threads: int
    """Largest number of threads of each run."""

    def execute(self, argv: Sequence[str], output: Path, should_stop: Callable[[], bool] = never) -> int:
        """Run ``sidetune-run`` with these arguments to its end, and append its output to a file.

        Args:
            argv: the arguments.
            output: the file.
            should_stop: asked now and then; the run saves a checkpoint and exits once it is true.

        Returns:
            The exit status; the negative number of the signal if one killed it.
        """

    def stop(self, number: int) -> None:
        """Let all runs save a checkpoint and exit. Later calls of `execute` return 128 + `number`, that of
        the signal."""


class LocalProcesses:
    """Processes of this machine, which share its GPUs or cores.

    Args:
        workers: number of concurrent runs; None for one per GPU, or one per `CORES_PER_RUN` cores without a
            GPU.

    Each process gets one of the GPUs in ``CUDA_VISIBLE_DEVICES``, and adapts its threads (see
    `system.threads`), up to the number of processors divided by that of workers.
    """

    def __init__(self, workers: int | None = None) -> None:
        gpus = visible_gpus()
        cores = available()
        self.workers = workers or len(gpus) or max(1, cores // CORES_PER_RUN)
        self.threads = max(1, cores // self.workers)
        self._slots: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
        for slot in range(self.workers):
            self._slots.put({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopped = 0

    def execute(self, argv: Sequence[str], output: Path, should_stop: Callable[[], bool] = never) -> int:
        """See `Executor`."""
        slot = self._slots.get()
        try:
            with output.open("ab") as file, self._lock:
                if self._stopped:
                    return 128 + self._stopped
                process = subprocess.Popen(
                    command(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, PROCESSES: str(self.workers), **slot},
                    process_group=0,  # Ctrl-C reaches the sweep only, which forwards it
                )
                self._processes.add(process)
            status = _wait(process, should_stop)
            with self._lock:
                self._processes.remove(process)
            return status
        finally:
            self._slots.put(slot)

    def stop(self, number: int) -> None:
        """See `Executor`."""
        with self._lock:
            self._stopped = number
            for process in self._processes:
                process.send_signal(number)

    def __str__(self) -> str:
        return f"{counted(self.workers, 'concurrent run')} on this machine"


class RayTasks:
    """Tasks of the Ray cluster at ``RAY_ADDRESS``, or of a local one if that is not set.

    Its nodes need sidetune, and share the current folder and that of the sweep. A killed run may be resumed
    on another node.

    Args:
        workers: maximum number of concurrent runs; None for one per GPU of the cluster, or one per
            `CORES_PER_RUN` cores.

    Raises:
        PluginError: Ray is not installed.
        OptionError: the cluster cannot be reached.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._ray: Any = connect("--executor ray")
        resources = self._ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        self.workers = workers or gpus or max(1, cores // CORES_PER_RUN)
        self.threads = max(1, cores // self.workers)
        remote = self._ray.remote(num_cpus=self.threads, num_gpus=min(1, gpus / self.workers), max_retries=0)
        self._task = remote(_on_node)
        self._lock = threading.Lock()
        self._running: set[Any] = set()
        self._stopped = 0

    def execute(self, argv: Sequence[str], output: Path, should_stop: Callable[[], bool] = never) -> int:
        """See `Executor`. A lost worker or node counts as killed."""
        with self._lock:
            if self._stopped:
                return 128 + self._stopped
            task = self._task.remote(list(argv), str(output), os.getcwd())
            self._running.add(task)
        try:
            if should_stop is not never:
                while not self._ray.wait([task], timeout=POLL_SECONDS)[0]:
                    if should_stop():
                        self._ray.cancel(task)
                        break
            return int(self._ray.get(task))
        except self._ray.exceptions.TaskCancelledError:  # before it started
            return 128 + (self._stopped or signal.SIGTERM)
        except (
            self._ray.exceptions.WorkerCrashedError,
            self._ray.exceptions.NodeDiedError,
            self._ray.exceptions.OutOfMemoryError,
        ):
            return -signal.SIGKILL
        finally:
            with self._lock:
                self._running.remove(task)

    def stop(self, number: int) -> None:
        """See `Executor`."""
        with self._lock:
            self._stopped = number
            for task in self._running:
                self._ray.cancel(task)

    def __str__(self) -> str:
        return f"{counted(self.workers, 'concurrent run')} on Ray"


def visible_gpus() -> list[str]:
    """The entries of ``CUDA_VISIBLE_DEVICES``, or the indices of the GPUs that ``nvidia-smi`` lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    count = sum(line.startswith("GPU ") for line in listed.splitlines())
    return [str(index) for index in range(count)]


def command(argv: Sequence[str]) -> list[str]:
    """``sidetune-run`` with this interpreter, as a child of this process; see `cli.sweep_worker`."""
    return [
        sys.executable,
        "-P",
        "-c",
        f"import sys; from sidetune_core.cli.sweep_worker import main; sys.exit(main({os.getpid()}))",
        *argv,
    ]


def _wait(process: subprocess.Popen[bytes], should_stop: Callable[[], bool]) -> int:
    """Wait for a run to exit, once it was asked to where it should stop."""
    asked = should_stop is never
    while not asked:
        try:
            return process.wait(timeout=POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if asked := should_stop():
                process.terminate()
    return process.wait()


def _on_node(argv: Sequence[str], output: str, folder: str) -> int:
    """A run within a Ray task, in which `KeyboardInterrupt` is raised when it is cancelled."""
    with open(os.path.join(folder, output), "ab") as file:
        process = subprocess.Popen(
            command(argv), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=folder
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # Ray's workers and their children ignore SIGINT
            return process.wait()
