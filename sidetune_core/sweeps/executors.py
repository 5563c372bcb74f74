"""Where the runs of a sweep are carried out: processes of this machine, or Ray."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sidetune_core.errors import OptionError, PluginError

CORES_PER_RUN = 4
"""Where there is no GPU. More small runs at once would be faster still, and each needs a gigabyte or more."""


class Executor(Protocol):
    """Carries out runs, each in a process of its own. Both methods may be called from several threads at once."""

    workers: int
    """How many runs it carries out at once."""
    threads: int
    """How many threads each of them computes with."""

    def carry_out(self, words: Sequence[str], output: Path) -> int:
        """``sidetune-run`` with these words, to its end; what it prints is added to a file.

        Returns:
            Its exit status; the negative number of the signal where one killed it.
        """

    def stop(self, number: int) -> None:
        """Let all runs save their state and end. None is begun after that: `carry_out` returns 128 + `number`, a signal's."""


class LocalProcesses:
    """Processes of this machine, which share its GPUs or cores among them.

    Args:
        workers: how many at once; None for one on each GPU, or for every `CORES_PER_RUN` cores where there is none.

    ``CUDA_VISIBLE_DEVICES`` says which GPUs there are, and each process is given one of them. ``OMP_NUM_THREADS`` is the cores divided
    by the workers, unless it is set already.
    """

    def __init__(self, workers: int | None = None) -> None:
        gpus = visible_gpus()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = workers or len(gpus) or max(1, cores // CORES_PER_RUN)
        self.threads = max(1, cores // self.workers)
        self._places: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
        for place in range(self.workers):
            self._places.put({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopped = 0

    def carry_out(self, words: Sequence[str], output: Path) -> int:
        """See `Executor`."""
        place = self._places.get()
        try:
            with output.open("ab") as file, self._lock:
                if self._stopped:
                    return 128 + self._stopped
                process = subprocess.Popen(
                    command(words),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={"OMP_NUM_THREADS": str(self.threads), **os.environ, **place},
                    process_group=0,  # Ctrl-C comes to the sweep alone, which passes it on
                )
                self._processes.add(process)
            status = process.wait()
            with self._lock:
                self._processes.remove(process)
            return status
        finally:
            self._places.put(place)

    def stop(self, number: int) -> None:
        """See `Executor`."""
        with self._lock:
            self._stopped = number
            for process in self._processes:
                process.send_signal(number)

    def __str__(self) -> str:
        return f"{self.workers} at once on this machine"


class RayTasks:
    """Tasks of a Ray cluster: the one that ``RAY_ADDRESS`` names, or else one of this machine alone.

    Its nodes need sidetune, and share the current folder and that of the sweep. A run that was killed may go on on another node.

    Args:
        workers: how many at once at most; None for what the cluster has GPUs for, or cores (`CORES_PER_RUN` each) where it has none.

    Raises:
        PluginError: Ray is not installed.
        OptionError: there is no such cluster.
    """

    def __init__(self, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise PluginError("--on ray needs 'ray': pip install 'sidetune[ray]'") from error
        self._ray: Any = ray
        try:
            dashboard = (
                None if os.environ.get("RAY_ADDRESS") else False
            )  # it can be set for a cluster that begins here only
            ray.init(
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=dashboard,
                ignore_reinit_error=True,
            )
        except Exception as error:  # Ray raises just that where its processes are too slow to begin
            raise OptionError(f"--on ray: {str(error).splitlines()[0]}") from error
        there = self._ray.cluster_resources()
        gpus, cores = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        self.workers = workers or gpus or max(1, cores // CORES_PER_RUN)
        self.threads = max(1, cores // self.workers)
        self._task = ray.remote(num_cpus=self.threads, num_gpus=min(1, gpus / self.workers), max_retries=0)(
            _on_node
        )
        self._lock = threading.Lock()
        self._running: set[Any] = set()
        self._stopped = 0

    def carry_out(self, words: Sequence[str], output: Path) -> int:
        """See `Executor`. A worker or a node that is lost counts as killed."""
        with self._lock:
            if self._stopped:
                return 128 + self._stopped
            task = self._task.remote(list(words), str(output), os.getcwd())
            self._running.add(task)
        try:
            return int(self._ray.get(task))
        except self._ray.exceptions.TaskCancelledError:  # before it began
            return 128 + self._stopped
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
        return f"{self.workers} at once on Ray"


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` lists, or else the numbers of the GPUs that ``nvidia-smi`` finds."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


def command(words: Sequence[str]) -> list[str]:
    """``sidetune-run`` with this interpreter (see `worker`)."""
    return [
        sys.executable,
        "-P",
        "-c",
        "import sys; from sidetune_core.cli.sweep_worker import main; sys.exit(main())",
        *words,
    ]


def _on_node(words: Sequence[str], output: str, folder: str) -> int:
    """A run within a task of Ray's, which raises `KeyboardInterrupt` when it is cancelled."""
    with open(os.path.join(folder, output), "ab") as file:
        process = subprocess.Popen(
            command(words), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=folder
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # Ray's workers, and so what they begin, are deaf to SIGINT
            return process.wait()
