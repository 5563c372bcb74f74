"""The optimiser steps of a stage: batches, losses, gradients, the optimiser, logging and saving."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.assembly.predict import make_predict
from sidetune_core.distributed.batch_ops import synchronized
from sidetune_core.errors import Diverged, SidetuneError
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Batch, Order, Task
from sidetune_core.seeding import random_states, seeded, set_random_states
from sidetune_core.storage import checkpoint
from sidetune_core.storage.checkpoint import MidTaskState
from sidetune_core.system.signals import StopRequested
from sidetune_core.training.context import Context
from sidetune_core.training.optimizer import make_optimizer, optimizer_state, rate, set_optimizer_state
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.stage import Stage

LOG_EVERY = 20
"""Steps between two looks at the loss: divergence is noticed soon, and a GPU is rarely made to wait."""


def train(
    learner: Learner,
    stage: Stage,
    seen: Sequence[Task],
    state: MidTaskState,
    context: Context,
    recorder: Recorder,
) -> int:
    """Take the steps of a stage from `state` on, and save the state at the intervals of the context.

    Args:
        learner: its trainable parameters require gradients.
        stage: the tasks to train.
        seen: the tasks trained before, then those of the stage.
        state: where the stage is; step 0 at its start.
        context: of the run.
        recorder: of the run.

    Returns:
        The number of steps of the stage; 0 where nothing is trainable.

    Raises:
        Diverged: the loss is not finite.
        StopRequested: a signal came, and the state is saved.
    """
    options, group = context.options, context.group
    total = stage.steps(options)
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    recorder.start_stage(f"task {len(seen)} {stage.last.title}", total)
    if not parameters or not total:
        return 0
    optimizer = make_optimizer(learner, options)
    consumed = stage.batches_taken(state.step, options)
    streams = {
        task.id: batches(task, learner, context, Order(context.seed, options.batch_size, consumed[task.id]))
        for task in stage.tasks
    }
    recent = list(state.recent)  # losses since the last look
    saved_step, saved_time = state.step, time.monotonic()

    def save(step: int) -> None:
        """Save the state after `step` steps."""
        if recent:
            _mean_loss(torch.stack(recent), stage.turn(step - 1), step - 1, recorder)
        now = attrs.evolve(state, step=step, recent=list(recent), optimizer=None, random=None)
        if step < total:
            now = attrs.evolve(now, optimizer=optimizer_state(optimizer), random=random_states())
        recorder.save_mid_task(learner, stage, seen, now)

    with seeded(context.seed, "train", *(task.id for task in stage.tasks)):
        if state.optimizer is not None and state.random is not None:
            set_optimizer_state(optimizer, state.optimizer)
            set_random_states(state.random)
        for step in range(state.step, total):
            task = stage.turn(step)
            try:
                micro_batches = list(islice(streams[task.id], options.accumulate))
            except (SidetuneError, StopRequested):
                if stage.can_resume_at(step, options):
                    save(step)
                raise
            for settings in optimizer.param_groups:
                settings["lr"] = rate(options, step, total)
            optimizer.zero_grad()
            losses = _backward(learner, task, micro_batches, parameters, context)
            if options.grad_clip is not None:
                nn.utils.clip_grad_norm_(parameters, options.grad_clip)
            optimizer.step()
            if step == state.step:
                group.check_replicas_match(
                    learner, f"after step {step + 1} of {stage.name}", micro_batches[-1]
                )
            recent.append(torch.stack(list(losses.values())).sum())
            last = step + 1 == total
            if len(recent) == LOG_EVERY or last:
                mean_loss = _mean_loss(torch.stack(recent), task, step, recorder)
                recent.clear()
                line = {
                    "task": task.id,
                    "step": step + 1,
                    "lr": rate(options, step, total),
                    "mean_loss": mean_loss,
                }
                task_metrics = task.record()
                line |= (
                    {name: float(value) for name, value in losses.items()} | learner.record() | task_metrics
                )
                shown = {name: task_metrics[name] for name in (task.metric,) if name in task_metrics}
                recorder.training_metrics(line, shown)
            group.sync_stop(context.stop)
            if not (last or stage.can_resume_at(step + 1, options)):
                continue
            due = context.save_every.over(step + 1 - saved_step, time.monotonic() - saved_time)
            due = due or (last and not context.save_every.never)
            if due or context.stop.number is not None:
                save(step + 1)
                saved_step, saved_time = step + 1, time.monotonic()
                context.stop.check()
    return total


def batches(task: Task, learner: Learner, context: Context, order: Order) -> Iterator[Batch]:
    """A task's training batches without end, on the device.

    A task that collects experience does so with the policy that is evaluated, in eval mode; a stop request
    ends that.

    Raises:
        StopRequested: a signal came.
    """
    compute = make_predict(learner, task, context.machine)
    in_training: list[nn.Module] = []  # modules in training mode, while they are in eval mode

    def predict(inputs: Inputs) -> Tensor:
        context.stop.check()
        if not in_training:
            in_training.extend(module for module in learner.modules() if module.training)
            for module in in_training:
                module.training = False
        return compute(inputs)

    for batch in task.train(predict, order):
        for module in in_training:
            module.training = True
        in_training.clear()
        yield context.machine.move_batch(batch)


def _backward(
    learner: Learner,
    task: Task,
    micro_batches: Sequence[Batch],
    parameters: Sequence[nn.Parameter],
    context: Context,
) -> dict[str, Tensor]:
    """Add the gradient of one step to the parameters: the mean over micro-batches, of which each process has
    a shard.

    Returns the loss and each penalty, averaged likewise.
    """
    group = context.group
    sums: dict[str, Tensor] = {}
    for batch in micro_batches:
        shard = group.shard_batch(batch)
        with synchronized(group, shard):
            with context.machine.autocast():
                output = learner(shard.batch.inputs, task.id)
            losses = {"loss": task.loss(output.float(), shard.batch).mean(), **learner.penalty(shard.batch)}
        terms = torch.stack([loss.float() for loss in losses.values()]) * (shard.weight / len(micro_batches))
        terms.sum().backward()  # type: ignore[no-untyped-call]
        for name, term in zip(losses, terms.detach(), strict=True):
            sums[name] = sums[name] + term if name in sums else term
    totals = group.all_reduce_gradients(parameters, torch.stack(list(sums.values())))
    return dict(zip(sums, totals, strict=True))


def _mean_loss(recent: Tensor, task: Task, step: int, recorder: Recorder) -> float:
    """The mean of recent losses (n,), the last of which is that of `step`.

    Raises:
        Diverged: one of them is not finite.
    """
    broken = (~torch.isfinite(recent)).nonzero()
    if len(broken):
        first = int(broken[0])
        path = checkpoint.latest(recorder.folder.checkpoints)
        kept = f"The state before this task is in {path}" if path else "No task was finished before it"
        raise Diverged(
            f"the loss is {float(recent[first])} at step {step + 2 - len(recent) + first} of task {task.id} "
            f"({task.title}). Try a smaller --train.lr, or --device.precision fp32. {kept}"
        )
    return float(recent.mean())
