"""The steps of a stage: batches, gradients, the optimiser, and what is written down on the way."""

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
from sidetune_core.interfaces.tasks import Batch, Order, Task, states
from sidetune_core.seeding import random_states, seeded, set_random_states
from sidetune_core.storage import checkpoint
from sidetune_core.storage.checkpoint import MidTaskState
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.signals import StopRequested
from sidetune_core.training.context import Session
from sidetune_core.training.optimizer import make_optimizer, optimizer_state, rate, set_optimizer_state
from sidetune_core.training.stage import Stage

LOG_EVERY = 20
"""Steps between two looks at the loss: often enough to stop soon after it diverges, rarely enough not to stall a GPU."""


def train(
    learner: Learner, stage: Stage, seen: Sequence[Task], mid_task: MidTaskState, session: Session
) -> int:
    """Take the steps of a stage from where `mid_task` is, and save the state now and then.

    Args:
        learner: what may move in it has been switched on.
        stage: what is learnt.
        seen: the tasks learnt before, and then those of `stage`.
        within: where the run is; step 0 for a stage that begins.
        session: of the run.

    Returns:
        How many steps the stage has; none where nothing can move.

    Raises:
        Diverged: the loss is not finite.
        Stopped: a signal came; the state is saved.
    """
    options = session.options
    steps = stage.steps(options)
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    session.progress.start(f"task {len(seen)} {stage.last.title}", steps)
    if not parameters or not steps:
        return 0
    optimizer = make_optimizer(learner, options)
    had = stage.batches_taken(mid_task.step, options)
    drawing = {
        task.id: batches(task, learner, session, Order(session.seed, options.batch_size, had[task.id]))
        for task in stage.tasks
    }
    group, recent = session.group, list(mid_task.recent)
    saved, when = mid_task.step, time.monotonic()

    def save(taken: int) -> None:
        """Write down where the run is after so many steps."""
        if recent:
            _check(torch.stack(recent), stage.turn(taken - 1), taken - 1, session.folder)
        now = attrs.evolve(mid_task, step=taken, recent=list(recent), optimizer=None, random=None)
        if taken < steps:
            now = attrs.evolve(now, optimizer=optimizer_state(optimizer), random=random_states())
        done = [one.id for one in seen[: -len(stage.tasks)]]
        if group.is_main:
            checkpoint.save_mid_task(
                session.folder.checkpoints, learner, done, session.folder.marks(), states(seen), now
            )
        session.clock.note()

    with seeded(session.seed, "train", *(task.id for task in stage.tasks)):
        if mid_task.optimizer is not None and mid_task.random is not None:
            set_optimizer_state(optimizer, mid_task.optimizer)
            set_random_states(mid_task.random)
        for step in range(mid_task.step, steps):
            task = stage.turn(step)
            try:
                drawn = list(islice(drawing[task.id], options.accumulate))
            except (SidetuneError, StopRequested):
                if stage.can_resume_at(step, options):
                    save(step)
                raise
            for settings in optimizer.param_groups:
                settings["lr"] = rate(options, step, steps)
            optimizer.zero_grad()
            losses = _gradient(learner, task, drawn, parameters, session)
            if options.grad_clip is not None:
                nn.utils.clip_grad_norm_(parameters, options.grad_clip)
            optimizer.step()
            if step == mid_task.step:
                group.check_replicas_match(learner, f"after step {step + 1} of {stage.name}", drawn[-1])
            recent.append(torch.stack(list(losses.values())).sum())
            last = step + 1 == steps
            if len(recent) == LOG_EVERY or last:
                loss = _check(torch.stack(recent), task, step, session.folder)
                recent.clear()
                reached = task.record()
                figures = {name: float(value) for name, value in losses.items()} | learner.record() | reached
                line = {
                    "task": task.id,
                    "step": step + 1,
                    "lr": rate(options, step, steps),
                    "mean_loss": loss,
                    **figures,
                }
                session.folder.append("metrics.jsonl", line)
                session.draw(line)
                session.progress.step(
                    step + 1, loss, {name: reached[name] for name in (task.metric,) if name in reached}
                )
            group.sync_stop(session.stop)
            if not (last or stage.can_resume_at(step + 1, options)):
                continue
            due = session.save_every.over(step + 1 - saved, time.monotonic() - when) or (
                last and not session.save_every.never
            )
            if due or session.stop.number is not None:
                save(step + 1)
                saved, when = step + 1, time.monotonic()
                session.stop.check()
    return steps


def batches(task: Task, learner: Learner, session: Session, order: Order) -> Iterator[Batch]:
    """A task's training batches without end, on the machine.

    A task that gathers experience does so with the policy that is evaluated, in eval mode; a signal is acted on meanwhile.

    Raises:
        Stopped: a signal came.
    """
    compute = make_predict(learner, task, session.machine)
    resting: list[nn.Module] = []

    def predict(inputs: Inputs) -> Tensor:
        session.stop.check()
        if not resting:
            resting.extend(module for module in learner.modules() if module.training)
            for module in resting:
                module.training = False
        return compute(inputs)

    for batch in task.train(predict, order):
        for module in resting:
            module.training = True
        resting.clear()
        yield session.machine.move_batch(batch)


def _gradient(
    learner: Learner, task: Task, drawn: Sequence[Batch], parameters: Sequence[nn.Parameter], session: Session
) -> dict[str, Tensor]:
    """Add the gradient of one step to the parameters: the mean over its batches, of each of which every process computes its share.

    Returns the loss and each penalty, averaged likewise.
    """
    group = session.group
    sums: dict[str, Tensor] = {}
    for batch in drawn:
        share = group.shard_batch(batch)
        with synchronized(group, share):
            with session.machine.autocast():
                output = learner(share.batch.inputs, task.id)
            losses = {"loss": task.loss(output.float(), share.batch).mean(), **learner.penalty(share.batch)}
        terms = torch.stack([loss.float() for loss in losses.values()]) * (share.weight / len(drawn))
        terms.sum().backward()  # type: ignore[no-untyped-call]
        for name, term in zip(losses, terms.detach(), strict=True):
            sums[name] = sums[name] + term if name in sums else term
    totals = group.all_reduce_gradients(parameters, torch.stack(list(sums.values())))
    return dict(zip(sums, totals, strict=True))


def _check(recent: Tensor, task: Task, step: int, folder: RunFolder) -> float:
    """The mean of the latest losses, ending with that of `step`.

    Raises:
        Diverged: one of them is not finite.
    """
    broken = (~torch.isfinite(recent)).nonzero()
    if len(broken):
        at = step + 1 - len(recent) + int(broken[0]) + 1
        kept = checkpoint.latest(folder.checkpoints)
        raise Diverged(
            f"the loss is {float(recent[broken[0]])} at step {at} of task {task.id} ({task.title}). Try a smaller --train.lr, or "
            f"--device.precision fp32. "
            + (f"The state before this task is in {kept}" if kept else "No task had been finished before it")
        )
    return float(recent.mean())
