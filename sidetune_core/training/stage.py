"""A stage: one task of a stream, or all tasks of it trained jointly."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from sidetune_core.config.spec import TrainOptions
from sidetune_core.interfaces.tasks import Task


@attrs.frozen(eq=False)
class Stage:
    """Tasks that alternate: step k belongs to task k modulo their number."""

    tasks: Sequence[Task]

    @property
    def last(self) -> Task:
        """The last task."""
        return self.tasks[-1]

    @property
    def name(self) -> str:
        """``t0``, or ``t0 to t9``."""
        return self.last.id if len(self.tasks) == 1 else f"{self.tasks[0].id} to {self.last.id}"

    def steps(self, options: TrainOptions) -> int:
        """Optimiser steps of all tasks together."""
        return sum(_steps(task, options) for task in self.tasks)

    def turn(self, step: int) -> Task:
        """The task of a step, counted from 0."""
        return self.tasks[step % len(self.tasks)]

    def batches_taken(self, step: int, options: TrainOptions) -> dict[str, int]:
        """Batches that each task, by id, has contributed to the first `step` steps."""
        count = len(self.tasks)
        return {
            task.id: (step + count - 1 - index) // count * options.accumulate
            for index, task in enumerate(self.tasks)
        }

    def can_resume_at(self, step: int, options: TrainOptions) -> bool:
        """Whether a run can be resumed after `step` steps (see `Task.can_resume_at`)."""
        taken = self.batches_taken(step, options)
        return all(task.can_resume_at(taken[task.id], options.batch_size) for task in self.tasks)


def _steps(task: Task, options: TrainOptions) -> int:
    if options.epochs is None:
        return options.steps
    return round(options.epochs * task.steps_per_epoch(options.batch_size * options.accumulate))
