"""The interface of executors: what runs stage workers in processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import attrs

from sidetune_core.storage.checkpoint import Checkpoint
from sidetune_core.training.stage import Stage
from sidetune_core.training.workers.handover import Handover
from sidetune_core.training.workers.stage_worker import StageWorker


@attrs.frozen
class Message:
    """What a worker reports of a stage, by the number of tasks that are trained after it."""

    stage: int
    kind: Literal["step", "done", "failed", "stopped", "killed"]
    done: int = 0
    """Steps taken."""
    total: int = 0
    """Steps of the stage."""
    error: BaseException | None = None
    """Why it failed."""
    cause: str = ""
    """How it was killed, such as ``SIGKILL``."""
    seconds: float = 0.0
    """Processor time since the last message."""


@attrs.frozen(eq=False)
class Assignment:
    """A stage, and the state from which a worker continues it."""

    stage: Stage
    count: int
    """Number of tasks that are trained after it."""
    resumed: Checkpoint | Handover | None
    since: int
    """See `Handover`."""


class Executor(Protocol):
    """Runs stage workers in processes."""

    def begin(self, worker: StageWorker, assignments: Sequence[Assignment]) -> None:
        """Begin to train stages, the first ones first."""

    def wait(self, seconds: float) -> list[Message]:
        """The messages since the last call; waits until there are any, or for some seconds."""

    def withdraw(self) -> None:
        """Begin no further stages."""

    def stop(self, number: int) -> None:
        """Have the workers save their state and end; `number` is that of a signal."""

    @property
    def is_running(self) -> bool:
        """Whether any worker is alive."""

    def close(self) -> None:
        """End all workers."""
