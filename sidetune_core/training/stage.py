"""A stage: one task of a stream, or all tasks of it trained jointly."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.errors import OptionError, PluginError
from sidetune_core.interfaces.capabilities import HasTrainingSize, ResumesAtSomeSteps
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.interfaces.training import Phase, PhaseSteps, TrainingStep, split_steps


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

    def phases(self, learner: Learner, options: TrainOptions) -> list[PhaseSteps]:
        """The phases of its steps, after all of its tasks have been started.

        Raises:
            PluginError: the learner's phases are not valid.
        """
        phases: object = learner.phases(self.last)
        owner = f"{type(learner).__name__}.phases()"
        if not isinstance(phases, Sequence) or not all(isinstance(phase, Phase) for phase in phases):
            raise PluginError(f"{owner} returns {phases!r}; return a list of Phases")
        if len(self.tasks) > 1 and len(phases) > 1:
            raise PluginError(f"{owner} returns {len(phases)} phases; joint training has a single one")
        try:
            return split_steps(phases, self.steps(options))
        except ValueError as error:
            raise PluginError(
                f"{owner} returns {error}; return phases of different names whose fractions sum to 1"
            ) from error

    def turn(self, step: int) -> Task:
        """The task of a step, counted from 0."""
        return self.tasks[step % len(self.tasks)]

    def step(self, number: int, steps: PhaseSteps, total: int, options: TrainOptions) -> TrainingStep:
        """The facts of a step."""
        task = self.turn(number)
        size = batch_size(task, options) * options.accumulate
        epoch = _epoch(task, number // len(self.tasks), size)
        return TrainingStep(number, total, epoch, steps, size, micro_batches=options.accumulate)

    def batches_taken(self, step: int, options: TrainOptions) -> dict[str, int]:
        """Batches that each task, by id, has contributed to the first `step` steps."""
        count = len(self.tasks)
        return {
            task.id: (step + count - 1 - index) // count * options.accumulate
            for index, task in enumerate(self.tasks)
        }

    def can_resume_at(self, step: int, options: TrainOptions) -> bool:
        """Whether a run can be resumed after `step` steps (see `ResumesAtSomeSteps`)."""
        taken = self.batches_taken(step, options)
        return all(
            task.can_resume_at(taken[task.id], batch_size(task, options))
            for task in self.tasks
            if isinstance(task, ResumesAtSomeSteps)
        )


def batch_size(task: Task, options: TrainOptions) -> int:
    """Examples of a batch of a task: at most all that it has, so that no batch repeats one."""
    if isinstance(task, HasTrainingSize):
        return min(options.batch_size, max(1, task.training_size()))
    return options.batch_size


def _epoch(task: Task, step: int, batch_size: int) -> int:
    """The epoch of a step of a task; 0 where its epochs cannot be counted, as of a stream without a length,
    which is trained for a number of steps."""
    try:
        return step // max(1, task.steps_per_epoch(batch_size))
    except OptionError:
        return 0


def _steps(task: Task, options: TrainOptions) -> int:
    if options.epochs is None:
        return options.steps
    return round(options.epochs * task.steps_per_epoch(batch_size(task, options) * options.accumulate))
