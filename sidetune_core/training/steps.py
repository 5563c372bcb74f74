"""The optimiser steps of a stage: phases, batches, losses, gradients, the optimiser, logging and saving."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.assembly.scalars import as_numbers
from sidetune_core.errors import Diverged, PluginError, SidetuneError
from sidetune_core.interfaces.capabilities import HasTrainingMetrics
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import Merger
from sidetune_core.interfaces.tasks import Batch, Order, Task
from sidetune_core.interfaces.training import PhaseSteps, Trainable
from sidetune_core.seeding import random_states, seeded, set_random_states
from sidetune_core.storage import checkpoint
from sidetune_core.storage.checkpoint import MidTaskState
from sidetune_core.system.signals import StopRequested
from sidetune_core.training.batches import batches
from sidetune_core.training.context import Context
from sidetune_core.training.gradients import Unreached, backward
from sidetune_core.training.optimizer import make_optimizer, optimizer_state, rate, set_optimizer_state
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.single_pass import SinglePass
from sidetune_core.training.stage import Stage, batch_size
from sidetune_core.training.throughput import Throughput
from sidetune_core.training.tracked import TrackedLearner
from sidetune_core.training.trainable import set_trainable, start_phase
from sidetune_core.training.within_task import WithinTask

RESERVED = frozenset({"task", "step", "lr", "mean_loss"})
"""Names of the facts in a line of ``metrics.jsonl``."""

SAVED_AT_END = 10.0
"""Seconds since the last checkpoint from which the state after the last step of a stage is saved too: what
follows may take long, and what is repeated after a kill during it is less than this."""

LOG_EVERY = 20
"""Steps between two looks at the loss: divergence is noticed soon, and a GPU is rarely made to wait."""


@attrs.define(eq=False)
class StageTraining:
    """The steps of a stage from `state` on; the state is saved at the intervals of the context.

    Args:
        tracked: the learner, with the tasks of the stage started.
        stage: the tasks to train.
        seen: the tasks trained before, then those of the stage.
        phases: of the stage.
        state: where the stage is; step 0 at its start.
        context: of the run.
        recorder: of the run.
    """

    tracked: TrackedLearner
    stage: Stage
    seen: Sequence[Task]
    phases: Sequence[PhaseSteps]
    state: MidTaskState
    context: Context
    recorder: Recorder
    _streams: Mapping[str, Iterator[Batch]] = attrs.field(init=False)
    """Batches by task, from those of step number `_position` on."""
    _position: int = attrs.field(init=False)
    _recent: list[Tensor] = attrs.field(init=False)
    """Losses since the last log line."""
    _within: WithinTask = attrs.field(init=False)
    _pass: SinglePass = attrs.field(init=False)
    _throughput: Throughput = attrs.field(init=False, factory=Throughput)
    _saved_step: int = attrs.field(init=False)
    _saved_time: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        within = self.state.within or {}
        self._within = WithinTask(
            self.tracked, self.stage, self.seen, within.get("evaluations"), self.context, self.recorder
        )
        unknown = self.state.step > 0 and "drawn" not in within
        counted = self.context.options.epochs == 1 and not unknown
        self._pass = SinglePass(self.stage, within.get("drawn", {}) if counted else None)
        self._open_streams(self.state.step)
        self._recent = list(self.state.recent)
        self._saved_step, self._saved_time = self.state.step, time.monotonic()

    @property
    def learner(self) -> Learner:
        """That is trained."""
        return self.tracked.learner

    @property
    def total(self) -> int:
        """Steps of the stage."""
        return self.phases[-1].end

    def run(self, trainable: Trainable) -> int:
        """Take the steps.

        Args:
            trainable: what is trained in the phase that `state` is in.

        Returns:
            The number of steps of the stage, without those of phases in which nothing is trainable, and those
            that were left out because a phase was stopped early.

        Raises:
            Diverged: the loss is not finite.
            StopRequested: a signal came, and the state is saved.
        """
        self.recorder.start_stage(f"task {len(self.seen)} {self.stage.last.title}", self.total)
        taken = 0
        with seeded(self.context.seed, "train", *(task.id for task in self.stage.tasks)):
            if self.state.random is not None:
                set_random_states(self.state.random)
            if trainable and self.total:
                self._within.begin()
            for number, phase in enumerate(self.phases):
                if number and phase.first >= self.state.step and self.total:
                    started = start_phase(self.tracked, self.stage.last, phase.phase, self.context)
                    trainable = trainable if started is None else started
                    set_trainable(self.tracked, trainable, self.context)
                if trainable:
                    taken += phase.end - phase.first
                    self._run_phase(phase, trainable)
        for line in self._pass.lines():
            self.recorder.within(line)
        if self._throughput.tokens:
            memory = self.context.machine.peak_memory() / 2**20
            self.recorder.info(f"trained on {self._throughput}; peak memory {memory:,.0f} MiB")
        return taken - self._within.skipped

    def _open_streams(self, step: int) -> None:
        """Begin the order of examples at a step."""
        options, context = self.context.options, self.context
        consumed = self.stage.batches_taken(step, options)
        self._streams = {
            task.id: batches(
                task, self.learner, context, Order(context.seed, batch_size(task, options), consumed[task.id])
            )
            for task in self.stage.tasks
        }
        self._position = step

    def _run_phase(self, phase: PhaseSteps, trainable: Trainable) -> None:
        """Take the remaining steps of a phase, in which `trainable` is trained."""
        options, learner, stage = self.context.options, self.learner, self.stage
        steps = range(max(self.state.step, phase.first), phase.end)
        if not steps:
            return
        if self._position != steps[0]:  # the steps of a phase in which nothing was trainable were not taken
            self._open_streams(steps[0])
        parameters = self.tracked.trainable()
        optimizer = make_optimizer(
            learner, options, trainable, parameters, undecayed=self.tracked.below(Merger)
        )
        if optimizer is not None and self.state.optimizer is not None and steps[0] > phase.first:
            set_optimizer_state(optimizer, self.state.optimizer)
        unreached = Unreached(
            self.tracked, trainable, looks=len(stage.tasks) if steps[0] == phase.first else 0
        )
        for number in steps:
            if self.context.threads.look(stage.tasks[0].id, number):
                self.recorder.threads_changed(stage, number, self.context.threads)
            task, step = stage.turn(number), stage.step(number, phase, self.total, options)
            micro_batches = self._draw(task, number, optimizer)
            if optimizer is not None:
                for settings in optimizer.param_groups:
                    settings["lr"] = settings["lr_scale"] * self._rate(number, phase)
                optimizer.zero_grad()
            losses = backward(learner, task, micro_batches, step, parameters, self.context)
            if losses and (warning := unreached.look(task)):
                self.recorder.warning(warning)
            learner.after_backward(task, self.context.with_autocast(step))
            if options.grad_clip is not None:
                nn.utils.clip_grad_norm_(parameters, options.grad_clip)
            if optimizer is not None:
                optimizer.step()
            with torch.no_grad():
                learner.after_step(task, self.context.with_autocast(step))
            if number == self.state.step:
                when = f"after step {number + 1} of {stage.name}"
                self.context.group.check_replicas_match(learner, when, micro_batches[-1])
            self._log(task, number, phase, losses)
            stopped = self._within.after_step(number + 1, phase)
            if stopped and self._recent:
                self._log(task, number, phase, losses, ends=True)
            if stopped or number + 1 == phase.end:
                self._within.end_phase(number + 1, phase)
            self._save_if_due(phase.end if stopped else number + 1, optimizer)
            if stopped:
                break

    def _draw(self, task: Task, number: int, optimizer: torch.optim.Optimizer | None) -> list[Batch]:
        """The micro-batches of a step; the state is saved if they cannot be had, or a stop comes first."""
        resumable = self.stage.can_resume_at(number, self.context.options)
        micro_batches = []
        try:
            for batch in islice(self._streams[task.id], self.context.options.accumulate):
                micro_batches.append(batch)
                if resumable and self.context.group.size == 1:  # else they stop together, after it
                    self.context.stop.check()
        except Diverged:
            raise  # what is saved would diverge again
        except (SidetuneError, StopRequested):
            if resumable:
                self._save(number, optimizer)
            raise
        self._position = number + 1
        self._pass.add(task.id, micro_batches)
        self._throughput.add(micro_batches)
        return micro_batches

    def _rate(self, number: int, phase: PhaseSteps) -> float:
        return rate(self.context.options, number - phase.first, phase.end - phase.first)

    def _log(
        self, task: Task, number: int, phase: PhaseSteps, losses: Mapping[str, Tensor], ends: bool = False
    ) -> None:
        """Note the losses of a step; after some steps, and the last of a phase, write and show a line. `ends`
        writes it for losses that were noted, because the phase ends early."""
        if losses and not ends:
            self._recent.append(torch.stack(list(losses.values())).sum())
        last = ends or number + 1 == phase.end
        due = len(self._recent) == LOG_EVERY if self._recent else (number + 1) % LOG_EVERY == 0
        if not (due or last):
            return
        line = {"task": task.id, "step": number + 1, "lr": self._rate(number, phase)}
        if self._recent:
            line["mean_loss"] = self._mean_loss(task, number)
            self._recent.clear()
        recorded = task.record() if isinstance(task, HasTrainingMetrics) else {}
        task_metrics = as_numbers(recorded, f"{type(task).__name__}.record() of task '{task.id}'")
        learner_metrics = as_numbers(self.learner.record(), f"{type(self.learner).__name__}.record()")
        for metrics in (losses, learner_metrics, task_metrics):
            if taken := RESERVED & metrics.keys():
                raise PluginError(
                    f"a loss or metric is called '{min(taken)}', as are facts of a step: rename it"
                )
            line |= {name: float(value) for name, value in metrics.items()}
        shown = {name: task_metrics[name] for name in (task.metric,) if name in task_metrics}
        if self._throughput.tokens:
            shown["tokens/s"] = self._throughput.per_second
        self.recorder.training_metrics(line, shown)

    def _save_if_due(self, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        """Save the state after `step` steps if it is time to, or a stop is requested.

        Raises:
            StopRequested: a signal came.
        """
        context, last = self.context, step == self.total
        context.group.sync_stop(context.stop)
        if not (last or self.stage.can_resume_at(step, context.options)):
            return
        seconds = time.monotonic() - self._saved_time
        due = context.save_every.over(step - self._saved_step, seconds)
        due = due or (last and seconds >= SAVED_AT_END and not context.save_every.never)
        if due or context.stop.number is not None:
            self._save(step, optimizer)
            self._saved_step, self._saved_time = step, time.monotonic()
            context.stop.check()

    def _save(self, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        """Save the state after `step` steps."""
        if self._recent:
            self._mean_loss(self.stage.turn(step - 1), step - 1)
        now = attrs.evolve(
            self.state,
            step=step,
            recent=list(self._recent),
            optimizer=None,
            random=None,
            within=self._state_within(),
        )
        if step < self.total:
            state = {} if optimizer is None else optimizer_state(optimizer)
            now = attrs.evolve(now, optimizer=state, random=random_states())
        self.recorder.save_mid_task(self.tracked, self.stage, self.seen, now)

    def _state_within(self) -> dict[str, Any] | None:
        """What a checkpoint within the stage has of evaluations and of the examples drawn; None for
        neither."""
        values = {"evaluations": self._within.state(), "drawn": self._pass.state()}
        return {name: value for name, value in values.items() if value is not None} or None

    def _mean_loss(self, task: Task, step: int) -> float:
        """The mean of recent losses, the last of which is that of `step`.

        Raises:
            Diverged: one of them is not finite.
        """
        recent = torch.stack(self._recent)
        broken = (~torch.isfinite(recent)).nonzero()
        if len(broken):
            first = int(broken[0])
            trained = len(self.seen) - len(self.stage.tasks)
            path = checkpoint.boundary(self.recorder.folder.checkpoints, trained)
            kept = f"The state before this task is in {path}" if trained else "No task was finished before it"
            raise Diverged(
                f"the loss is {float(recent[first])} at step {step + 2 - len(recent) + first} of task "
                f"{task.id} ({task.title})",
                f"Try a smaller --train.lr, or --device.precision fp32. {kept}",
            )
        return float(recent.mean())
