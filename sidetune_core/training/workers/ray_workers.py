"""Worker processes of a Ray cluster, which read the run from its folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from sidetune_core.assembly.restore import read_resolved
from sidetune_core.config.interval import Interval
from sidetune_core.config.selection import read_selection
from sidetune_core.distributed.process_group import ProcessGroup
from sidetune_core.errors import OptionError, RunError, shorten
from sidetune_core.storage import checkpoint
from sidetune_core.storage.ahead import ahead_path
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.ray_cluster import connect
from sidetune_core.system.signals import StopRequest, StopRequested
from sidetune_core.training.context import Context
from sidetune_core.training.job import Job, assemble, make_cache, open_stream
from sidetune_core.training.stage import Stage
from sidetune_core.training.workers.entry_digests import entry_digest
from sidetune_core.training.workers.executor import Assignment, Message
from sidetune_core.training.workers.handover import Handover, read_handover
from sidetune_core.training.workers.portable_error import portable
from sidetune_core.training.workers.stage_worker import StageWorker

OPTION = "--workers ray"

QUEUED = 2
"""Stages that each worker has been given, so that none waits while the main process closes a stage."""


@attrs.frozen
class Order:
    """What an actor needs to make the run."""

    folder: str
    current: str
    """The current folder, on which paths of options may depend."""
    threads: int
    save_every: Interval
    identity: Mapping[str, Any]
    """See `Identity.to_json`."""


class StageActor:
    """A process of the cluster, with a learner and data of its own.

    Raises:
        RunError: it would compute something else than the main process.
    """

    def __init__(self, order: Order) -> None:
        os.chdir(order.current)
        torch.set_num_threads(order.threads)
        self._order, self._stop, self._withdrawn = order, StopRequest(), False
        folder = RunFolder(Path(order.folder))
        resolved = read_resolved(folder, True)  # whoever began the run trusts it
        self._stream = open_stream(resolved)
        selection = read_selection(folder.read_json("run.json"))
        job = assemble(resolved, self._stream, ProcessGroup(), True, selection)
        if different := _differences(order.identity, job.identity.to_json()):
            raise RunError(f"a Ray worker has other {shorten(different)} than the main process")
        context = Context(
            options=resolved.train,
            seed=resolved.seed,
            machine=job.machine,
            cache=make_cache(job),
            stop=self._stop,
            save_every=order.save_every,
            selection=selection,
        )
        context.machine.place(job.learner)
        shared = set(map(entry_digest, job.learner.state_dict().values()))
        self._worker = StageWorker(job.learner, shared, job.tasks, 0, context, folder, job.identity)

    def train(self, count: int, size: int, since: int, continues: str) -> tuple[str, float, Any]:
        """Train the stage of `size` tasks after which `count` are trained; returns how that ended, the
        processor time, and the error.
        """
        torch.set_num_threads(self._order.threads)  # of this thread
        began = time.process_time()
        kind, error = "done", None
        if self._withdrawn or self._stop.number is not None:
            return "stopped", 0.0, None
        stage = Stage(self._worker.tasks[count - size : count])
        try:
            self._worker.train(stage, self._start(count, continues), since, lambda done, total: None)
        except StopRequested:
            kind = "stopped"
        except Exception as raised:
            kind, error = "failed", portable(raised, stage.name)
        return kind, time.process_time() - began, error

    def withdraw(self) -> None:
        """Begin no further stage."""
        self._withdrawn = True

    def stop(self, number: int) -> None:
        """Save the state of the stage, and begin no further one."""
        self._stop.number = number

    def _start(self, count: int, continues: str) -> checkpoint.Checkpoint | Handover | None:
        folder = self._worker.folder.checkpoints
        if continues == "handover":
            return read_handover(ahead_path(folder, count))
        return checkpoint.find(folder, lambda text: None) if continues else None


class RayWorkers:
    """Actors of a Ray cluster, each with a processor (see `Executor`). Its nodes need sidetune, and share the
    current folder and that of the run.

    Args:
        job: of the run.

    Raises:
        PluginError: Ray is not installed.
        OptionError: the cluster cannot be reached.
    """

    def __init__(self, job: Job) -> None:
        self._ray = connect(OPTION)
        self._job = job
        self._actors: list[Any] = []
        self._waiting: list[Assignment] = []
        self._running: dict[Any, tuple[Any, int]] = {}
        """By a reference to a result, the actor and the stage."""

    def begin(self, worker: StageWorker, assignments: Sequence[Assignment]) -> None:
        """See `Executor`."""
        threads = torch.get_num_threads()
        identity = self._job.identity.to_json()
        order = Order(
            str(worker.folder.path.absolute()), os.getcwd(), threads, worker.context.save_every, identity
        )
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        count = min(max(1, cores // threads), len(assignments))
        remote = self._ray.remote(
            num_cpus=threads, max_restarts=0, concurrency_groups={"train": 1, "control": 1}
        )(StageActor)
        self._actors = [remote.remote(order) for _ in range(count)]
        self._waiting = list(assignments)
        for _ in range(QUEUED):
            for actor in self._actors:
                self._submit(actor)

    def _submit(self, actor: Any) -> None:
        if not self._waiting:
            return
        one = self._waiting.pop(0)
        continues = "" if one.resumed is None else type(one.resumed).__name__.lower()
        method = actor.train.options(concurrency_group="train")
        reference = method.remote(one.count, len(one.stage.tasks), one.since, continues)
        self._running[reference] = (actor, one.count)

    def wait(self, seconds: float) -> list[Message]:
        """See `Executor`."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        messages: list[Message] = []
        for reference in ready:
            actor, stage = self._running.pop(reference)
            try:
                kind, worked, error = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as lost:
                cause = getattr(lost, "cause", None)
                if isinstance(cause, RunError):
                    raise cause from lost
                messages.append(Message(stage, "killed", cause="Ray, or with its node"))
                continue
            messages.append(Message(stage, kind, error=error, seconds=worked))
            self._submit(actor)
        return messages

    def withdraw(self) -> None:
        """See `Executor`."""
        self._waiting = []
        for actor in self._actors:
            actor.withdraw.options(concurrency_group="control").remote()

    def stop(self, number: int) -> None:
        """See `Executor`."""
        self._waiting = []
        for actor in self._actors:
            actor.stop.options(concurrency_group="control").remote(number)

    @property
    def is_running(self) -> bool:
        """See `Executor`."""
        return bool(self._running)

    def __str__(self) -> str:
        return "workers of Ray"

    def close(self) -> None:
        """See `Executor`."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._running, self._waiting = [], {}, []


def check_spec(job: Job) -> None:
    """Check that other machines can make the run from its folder.

    Raises:
        OptionError: it has objects of Python, or was extended.
    """
    if held := [slot for slot, one in job.resolved.components.items() if one.given is not None]:
        raise OptionError(
            f"{OPTION} makes the run from its spec, and {' and '.join(held)} are objects of this process: "
            "use --workers 2 (workers=2), which forks it, or choose them by name"
        )
    if job.extended_memo is not None:
        raise OptionError(f"{OPTION} does not continue a run that was extended: use --workers 2")


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The parts of an identity that differ."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
