"""Starting tasks and phases of a learner that is followed, and what they train."""

from __future__ import annotations

from sidetune_core.assembly.build import call_start, call_start_phase, set_precisions
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.interfaces.training import Phase, Trainable
from sidetune_core.training.context import Context
from sidetune_core.training.tracked import TrackedLearner


def start_task(tracked: TrackedLearner, task: Task, context: Context) -> Trainable:
    """Start a task under its seed, and move what the learner has added for it to the device.

    Raises:
        PluginError: `Learner.start` returned something that is not the learner's.
    """
    trainable = call_start(tracked.learner, task, context.seed)
    tracked.place(context.machine)
    tracked.check_owned(trainable, "start")
    set_precisions(tracked.outermost_bases, trainable, context.machine)
    return trainable


def start_phase(tracked: TrackedLearner, task: Task, phase: Phase, context: Context) -> Trainable | None:
    """Start a phase of a task under its seed.

    Raises:
        PluginError: `Learner.start_phase` returned something that is not the learner's.
    """
    trainable = call_start_phase(tracked.learner, task, phase, context.seed)
    tracked.look()
    if trainable is not None:
        tracked.check_owned(trainable, "start_phase")
    return trainable


def restart_task(tracked: TrackedLearner, task: Task, context: Context) -> None:
    """Start a finished task and its phases again, before its state is loaded."""
    start_task(tracked, task, context)
    for phase in tracked.learner.phases(task)[1:]:
        start_phase(tracked, task, phase, context)


def freeze(learner: Learner) -> None:
    """`TrackedLearner.freeze` for a learner that is not followed."""
    learner.requires_grad_(False)
    learner.eval()


def set_trainable(tracked: TrackedLearner, trainable: Trainable, context: Context) -> None:
    """Freeze the learner, then release what `Learner.start` returned; the feature cache serves the bases that
    stay frozen.
    """
    tracked.set_trainable(trainable)
    if context.cache is not None:
        context.cache.attach(tracked.learner, context.machine.arithmetic, tracked.bases)
