"""What is learnt at once: one task of a stream, or all of them in turns."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from sidetune_core.config.spec import TrainOptions
from sidetune_core.interfaces.tasks import Task


@attrs.frozen(eq=False)
class Stage:
    """Tasks that take their turns, step by step: step k belongs to task k modulo their number."""

    tasks: Sequence[Task]

    @property
    def last(self) -> Task:
        return self.tasks[-1]

    @property
    def name(self) -> str:
        """``t0``, or ``t0 to t9``."""
        return self.last.id if len(self.tasks) == 1 else f"{self.tasks[0].id} to {self.last.id}"

    def steps(self, options: TrainOptions) -> int:
        """How many steps are taken in all, those of each task as the options say."""
        return sum(_steps(task, options) for task in self.tasks)

    def turn(self, step: int) -> Task:
        """Whose step it is, counted from 0."""
        return self.tasks[step % len(self.tasks)]

    def batches_taken(self, step: int, options: TrainOptions) -> dict[str, int]:
        """How many batches each task, by id, has had when so many steps have been taken."""
        count = len(self.tasks)
        return {
            task.id: (step + count - 1 - place) // count * options.accumulate
            for place, task in enumerate(self.tasks)
        }

    def can_resume_at(self, step: int, options: TrainOptions) -> bool:
        """Whether a run can go on when so many steps have been taken (see `Task.can_resume_at`)."""
        taken = self.batches_taken(step, options)
        return all(task.can_resume_at(taken[task.id], options.batch_size) for task in self.tasks)


def _steps(task: Task, options: TrainOptions) -> int:
    return (
        options.steps
        if options.epochs is None
        else round(options.epochs * task.steps_per_epoch(options.batch_size * options.accumulate))
    )
