"""The loop: one task after another, read from top to bottom. It knows no plugin by name."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core import checkpoint
from sidetune_core.certify import certify
from sidetune_core.checkpoint import Within
from sidetune_core.devices import Machine
from sidetune_core.errors import Diverged, PluginError, SidetuneError
from sidetune_core.features import FeatureStore
from sidetune_core.intervals import Interval
from sidetune_core.learner import Learner
from sidetune_core.optim import count_moving, make_optimizer, optimizer_state, rate, set_optimizer_state
from sidetune_core.parts import Inputs
from sidetune_core.probes import Watch
from sidetune_core.progress import Progress
from sidetune_core.runs import RunFolder
from sidetune_core.seeding import derive_seed, random_states, seeded, set_random_states
from sidetune_core.spec import TrainOptions
from sidetune_core.stops import Stop, Stopped
from sidetune_core.tasks import Act, Batch, Order, Task
from sidetune_core.weights import tensor_digest

TICK = 20
"""Steps between two looks at the loss: often enough to stop soon after it diverges, rarely enough not to stall a GPU."""

Curve = Callable[[Mapping[str, float], int], None]
"""Takes named figures and the number of steps over all tasks."""


@attrs.frozen
class Session:
    """What stays the same from task to task."""

    options: TrainOptions
    seed: int
    machine: Machine
    folder: RunFolder
    store: FeatureStore | None
    progress: Progress
    curve: Curve
    save_every: Interval = Interval()
    stop: Stop = attrs.field(factory=Stop)


def learn(learner: Learner, tasks: Sequence[Task], session: Session) -> None:
    """Learn `tasks` in order, or all at once if the learner says so, from the newest whole state in the run's folder on if there is one.

    Where it goes on, everything is as if it had never stopped: weights, optimiser, generators, the place in the order of examples (a
    function of seed, task and step), the lines of the run folder, and the curves, which are drawn again from those lines. The feature
    store is not restored: it is filled again with the same bits (see `features.Table.lookup`).

    Raises:
        Diverged: the loss stopped being a number; the last checkpoint stays.
        PluginError: the learner returned something from `start` that is not its own.
        Stopped: a signal came; the state is saved.
        WriteError: the run folder cannot be written; what was there stays.
    """
    session.machine.place(learner)
    folder = session.folder
    found = checkpoint.find(folder.checkpoints, session.progress.warn)
    done, within = (found.done, found.within) if found else ([], None)
    for name in folder.rewind(found.marks if found else {}):
        session.progress.warn(f"{folder.path / name} is not what it was when the run came here; what is missing stays missing")
    for line in folder.lines("metrics.jsonl"):
        _draw(line, session.curve)
    if found:
        for task in tasks[: len(done)]:
            _grow(learner, task, session)
        if within is None:
            found.load(learner)
        for task in tasks:
            if task.id in found.tasks:
                task.set_state(found.tasks[task.id])
        session.progress.say(f"going on {found} ({len(done)} of {len(tasks)} tasks are done)")
        if within is not None and within.optimizer is not None:
            for lost in sorted({task.lost_within for task in tasks if task.id in within.tasks} - {""}):
                session.progress.say(lost)
    else:
        _evaluate_untrained(learner, tasks, session)

    stages = [list(tasks)] if learner.together else [[task] for task in tasks]
    for number, stage in enumerate(stages):
        if stage[-1].id in done:
            continue
        began = time.monotonic()
        seen = tasks[: tasks.index(stage[-1]) + 1]
        movable = [thing for task in stage for thing in _grow(learner, task, session)]
        if within is not None:
            assert found is not None
            found.load(learner)
            _ready(learner, movable, session)
        else:
            if number:
                _ready(learner, [], session)
                evaluate(learner, stage[0], session, after=number - 1)  # R[j-1][j]: what earlier tasks have taught about this one
            _ready(learner, movable, session)
            within = Within([task.id for task in stage], 0, _digests(learner))
            _record_parameters(learner, stage, folder)
        steps = _train(learner, stage, seen, within, session)
        _still(learner)
        for task in stage:
            batches = _batches(task, learner, session, Order(derive_seed(session.seed, "finish"), session.options.batch))
            held = task.state()
            with seeded(session.seed, "finish", task.id):
                learner.finish(task, _until(session.stop, batches))
            task.set_state(held)
        acts = {task.id: Watch(make_act(learner, task, session.machine)) for task in seen}
        figures = [evaluate(learner, task, session, after=len(seen) - 1, act=acts[task.id]) for task in seen]
        if session.store is not None:
            session.store.save()
        _record_moved(learner, stage, within.before, folder)
        certify(learner, stage, acts, folder)
        done, within = [task.id for task in seen], None
        checkpoint.save(folder.checkpoints, learner, done, folder.marks(), _states(seen))
        checkpoint.forget_within(folder.checkpoints)
        session.progress.finish(
            f"task {len(seen)}/{len(tasks)} {stage[-1].title}: {stage[-1].metric} {figures[-1]:.4g}, "
            f"mean over tasks so far {sum(figures) / len(figures):.4g} ({steps} steps, {time.monotonic() - began:.1f} s)"
        )
    FeatureStore.detach(learner)  # from here on the learner is the user's, who may change the base


def evaluate(learner: Learner, task: Task, session: Session, after: int, act: Act | None = None) -> float:
    """Measure a task on each of its splits, write the figures down, and return the one of R on the test split."""
    compute = act or make_act(learner, task, session.machine)

    def checked(inputs: Inputs) -> Tensor:
        session.stop.check()
        return compute(inputs)

    result = float("nan")
    for split in task.splits:
        figures = task.evaluate(checked, split)
        session.folder.append("eval.jsonl", {"after": after, "task": task.id, "split": split, "figures": figures})
        if split == "test":
            result = figures[task.metric]
    return result


def make_act(learner: Learner, task: Task, machine: Machine) -> Act:
    """The learner's current output for a task, without gradient, in float32."""

    def act(inputs: Inputs) -> Tensor:
        tensors = {name: machine.move(value) for name, value in inputs.items()}
        with torch.no_grad(), machine.autocast():
            output: Tensor = learner(attrs.evolve(inputs, tensors=tensors), task.id)
        return output.float()

    return act


def _grow(learner: Learner, task: Task, session: Session) -> list[nn.Module | nn.Parameter]:
    """Let the learner grow for a task; returns what it says may move."""
    FeatureStore.detach(learner)
    with seeded(session.seed, "start", task.id):
        movable = learner.start(task)
    session.machine.place(learner)
    own = {id(one) for one in (*learner.modules(), *learner.parameters())}
    for thing in movable:
        if id(thing) not in own:
            raise PluginError(f"{type(learner).__name__}.start() returned a {type(thing).__name__} that is not a part of the learner")
    return movable


def _ready(learner: Learner, movable: Sequence[nn.Module | nn.Parameter], session: Session) -> None:
    """Switch on what may move; everything else is frozen and in eval mode, and frozen bases are served by the feature store."""
    _still(learner)
    for thing in movable:
        thing.requires_grad_(True)
        if isinstance(thing, nn.Module):
            thing.train()
    if session.store is not None:
        session.store.attach(learner, session.machine.arithmetic)


def _still(learner: Learner) -> None:
    """Freeze everything. Eval mode matters as much: batch norm would drift without any gradient."""
    learner.requires_grad_(False)
    learner.eval()


def _train(learner: Learner, stage: Sequence[Task], seen: Sequence[Task], within: Within, session: Session) -> int:
    """Take the steps of one task, or of several in turn, from where `within` is; returns how many there are."""
    options = session.options
    steps = sum(_steps(task, options) for task in stage)
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    session.progress.start(f"task {len(seen)} {stage[-1].title}", steps)
    if not parameters or not steps:
        return 0
    optimizer = make_optimizer(learner, options)
    turns = _turns(stage, within.step)
    batches = {task.id: _batches(task, learner, session, Order(session.seed, options.batch, turns[task.id])) for task in stage}
    recent = list(within.recent)
    saved, when = within.step, time.monotonic()

    def save(taken: int) -> None:
        """Write down where the run is after so many steps."""
        if recent:
            _check(torch.stack(recent), stage[(taken - 1) % len(stage)], taken - 1, session.folder)
        now = attrs.evolve(within, step=taken, recent=list(recent), optimizer=None, random=None)
        if taken < steps:
            now = attrs.evolve(now, optimizer=optimizer_state(optimizer), random=random_states())
        done = [one.id for one in seen[: -len(stage)]]
        checkpoint.save_within(session.folder.checkpoints, learner, done, session.folder.marks(), _states(seen), now)

    with seeded(session.seed, "train", *(task.id for task in stage)):
        if within.optimizer is not None and within.random is not None:
            set_optimizer_state(optimizer, within.optimizer)
            set_random_states(within.random)
        for step in range(within.step, steps):
            task = stage[step % len(stage)]
            try:
                batch = next(batches[task.id])
            except (SidetuneError, Stopped):
                if _can_go_on(stage, step, options.batch):
                    save(step)
                raise
            for group in optimizer.param_groups:
                group["lr"] = rate(options, step, steps)
            with session.machine.autocast():
                output = learner(batch.inputs, task.id)
            losses = {"loss": task.loss(output.float(), batch).mean(), **learner.penalty(batch)}
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            if options.clip is not None:
                nn.utils.clip_grad_norm_(parameters, options.clip)
            optimizer.step()
            recent.append(total.detach())
            last = step + 1 == steps
            if len(recent) == TICK or last:
                loss = _check(torch.stack(recent), task, step, session.folder)
                recent.clear()
                figures = {name: float(value.detach()) for name, value in losses.items()} | learner.record() | task.record()
                line = {"task": task.id, "step": step + 1, "lr": rate(options, step, steps), "mean_loss": loss, **figures}
                session.folder.append("metrics.jsonl", line)
                _draw(line, session.curve)
                session.progress.step(step + 1, loss)
            if not (last or _can_go_on(stage, step + 1, options.batch)):
                continue
            due = session.save_every.over(step + 1 - saved, time.monotonic() - when) or (last and not session.save_every.never)
            if due or session.stop.number is not None:
                save(step + 1)
                saved, when = step + 1, time.monotonic()
                session.stop.check()
    return steps


def _turns(stage: Sequence[Task], step: int) -> dict[str, int]:
    """How many batches each task has had after so many steps."""
    return {task.id: (step + len(stage) - 1 - place) // len(stage) for place, task in enumerate(stage)}


def _can_go_on(stage: Sequence[Task], step: int, batch_size: int) -> bool:
    """Whether a run can go on after so many steps."""
    turns = _turns(stage, step)
    return all(task.can_go_on(turns[task.id], batch_size) for task in stage)


def _states(tasks: Sequence[Task]) -> dict[str, Any]:
    """What each task holds itself, by id; those that hold nothing are left out."""
    return {task.id: state for task in tasks if (state := task.state())}


def _draw(line: Mapping[str, Any], curve: Curve) -> None:
    """A line of ``metrics.jsonl`` as points of curves."""
    figures = {name: value for name, value in line.items() if name not in ("task", "step", "lr", "mean_loss")}
    curve({f"{line['task']}/{name}": value for name, value in figures.items()}, line["step"])


def _steps(task: Task, options: TrainOptions) -> int:
    return options.steps if options.epochs is None else round(options.epochs * task.steps_per_epoch(options.batch))


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
            f"--train.precision fp32. " + (f"The state before this task is in {kept}" if kept else "No task had been finished before it")
        )
    return float(recent.mean())


def _batches(task: Task, learner: Learner, session: Session, order: Order) -> Iterator[Batch]:
    """A task's training batches on the machine."""
    compute = make_act(learner, task, session.machine)
    resting: list[nn.Module] = []

    def act(inputs: Inputs) -> Tensor:
        """Experience is gathered with the policy that is evaluated: in eval mode."""
        session.stop.check()
        if not resting:
            resting.extend(module for module in learner.modules() if module.training)
            for module in resting:
                module.training = False
        return compute(inputs)

    for batch in task.train(act, order):
        for module in resting:
            module.training = True
        resting.clear()
        yield session.machine.move_batch(batch)


def _until(stop: Stop, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, until a signal comes."""
    for batch in batches:
        stop.check()
        yield batch


def _evaluate_untrained(learner: Learner, tasks: Sequence[Task], session: Session) -> None:
    """Row -1 of R: every task started, none trained, on a copy."""
    fresh = copy.deepcopy(learner)
    for task in tasks:
        _grow(fresh, task, session)
        _ready(fresh, [], session)
        evaluate(fresh, task, session, after=-1)


def _record_parameters(learner: Learner, stage: Sequence[Task], folder: RunFolder) -> None:
    every = sum(parameter.numel() for parameter in learner.parameters())
    folder.append("parameters.jsonl", {"task": _name(stage), "trainable": count_moving(learner), "all": every})


def _digests(learner: Learner) -> dict[str, str]:
    """Of every tensor of the learner's state."""
    return {name: tensor_digest(name, value).hex() for name, value in learner.state_dict().items() if isinstance(value, Tensor)}


def _record_moved(learner: Learner, stage: Sequence[Task], before: Mapping[str, str], folder: RunFolder) -> None:
    """Write down which tensors and buffers changed while a task was learnt, and which are the same bit for bit."""
    after = _digests(learner)
    moved = sorted(name for name in after if before.get(name) != after[name])
    folder.append("moved.jsonl", {"task": _name(stage), "moved": moved, "kept": sorted(after.keys() - set(moved))})


def _name(stage: Sequence[Task]) -> str:
    return stage[0].id if len(stage) == 1 else f"{stage[0].id} to {stage[-1].id}"
