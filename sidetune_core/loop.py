"""The loop: one task after another, read from top to bottom. It knows no plugin by name."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor, nn

from sidetune_core import checkpoint, pictures
from sidetune_core.certify import certify
from sidetune_core.checkpoint import Within
from sidetune_core.devices import Machine
from sidetune_core.distributed import Group
from sidetune_core.errors import Diverged, PluginError, SidetuneError
from sidetune_core.features import FeatureStore
from sidetune_core.intervals import Interval
from sidetune_core.learner import Learner
from sidetune_core.optim import count_moving, make_optimizer, optimizer_state, rate, set_optimizer_state
from sidetune_core.parts import Inputs
from sidetune_core.probes import Watch
from sidetune_core.progress import Progress
from sidetune_core.runs import Clock, RunFolder
from sidetune_core.seeding import derive_seed, random_states, seeded, set_random_states
from sidetune_core.spec import TrainOptions
from sidetune_core.stops import Stop, Stopped
from sidetune_core.tasks import Act, Batch, Order, Task
from sidetune_core.weights import tensor_digest
from sidetune_core.wholebatch import as_whole

TICK = 20
"""Steps between two looks at the loss: often enough to stop soon after it diverges, rarely enough not to stall a GPU."""

Curve = Callable[[Mapping[str, float], int], None]
"""Takes named figures and the number of steps over all tasks."""

Show = Callable[[str, Tensor, int], None]
"""Takes a picture's name, the picture (3, H, W) in [0, 1], and the number of tasks that have been learnt."""


def _nowhere(name: str, picture: Tensor, step: int) -> None:
    """Show nothing."""


class Found(NamedTuple):
    """What an evaluation of a split gives."""

    figures: Mapping[str, float]
    documents: Mapping[str, str]


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
    clock: Clock = attrs.Factory(lambda self: Clock(self.folder, self.machine.peak_memory), takes_self=True)
    group: Group = Group()
    show: Show = _nowhere


def learn(learner: Learner, tasks: Sequence[Task], session: Session) -> None:
    """Learn `tasks` in order, or all at once if the learner says so, from the newest whole state in the run's folder on if there is one.

    Where it goes on, everything is as if it had never stopped: weights, optimiser, generators, the place in the order of examples (a
    function of seed, task and step), the lines of the run folder, and the curves, which are drawn again from those lines. The feature
    store is not restored: it is filled again with the same bits (see `features.Table.lookup`).

    Several processes (see `Group`) do the same, but for this: in training each computes its share of a batch, of the tasks that are
    evaluated each evaluates some, and the first one alone reads and writes the run's folder.

    Raises:
        Diverged: the loss stopped being a number; the last checkpoint stays.
        PluginError: the learner returned something from `start` that is not its own.
        Stopped: a signal came; the state is saved.
        WriteError: the run folder cannot be written; what was there stays.
    """
    session.machine.place(learner)
    folder, group = session.folder, session.group
    found = group.from_first(lambda: checkpoint.find(folder.checkpoints, session.progress.warn))
    done, within = (found.done, found.within) if found else ([], None)
    for name in folder.rewind(found.marks if found else {}):
        session.progress.warn(f"{folder.path / name} is not what it was when the run came here; what is missing stays missing")
    for line in folder.lines("metrics.jsonl") if group.first else ():
        _draw(line, session.curve)
    for task_id, name, picture in pictures.kept(folder) if group.first else ():
        session.show(f"{task_id}/{name}", picture, len(done))
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
            if number:  # R[j-1][j]: what earlier tasks have taught about this one
                _ready(learner, [], session)
                _evaluate(stage[:1], {stage[0].id: Watch(make_act(learner, stage[0], session.machine))}, session, after=number - 1)
            _ready(learner, movable, session)
            within = Within([task.id for task in stage], 0, _digests(learner))
            _record_parameters(learner, stage, folder)
        steps = _train(learner, stage, seen, within, session)
        _still(learner)
        group.check_same(learner, f"after {_name(stage)}")
        for task in stage:
            batches = _batches(task, learner, session, Order(derive_seed(session.seed, "finish"), session.options.batch))
            held = task.state()
            with seeded(session.seed, "finish", task.id):
                learner.finish(task, _until(session.stop, batches))
            task.set_state(held)
        group.spread(learner)
        acts = {task.id: Watch(make_act(learner, task, session.machine)) for task in seen}
        figures = _evaluate(seen, acts, session, after=len(seen) - 1)
        before, done, within = within.before, [task.id for task in seen], None
        if group.first:
            if session.store is not None:
                session.store.save()
            for task in seen:
                for name, picture in task.pictures(make_act(learner, task, session.machine)).items():
                    pictures.keep(folder, task.id, name, picture)
                    session.show(f"{task.id}/{name}", picture, len(seen))
            _record_moved(learner, stage, before, folder)
            certify(learner, stage, acts, folder)
            checkpoint.save(folder.checkpoints, learner, done, folder.marks(), _states(seen))
            checkpoint.forget_within(folder.checkpoints)
        session.clock.note()
        session.progress.finish(
            f"task {len(seen)}/{len(tasks)} {stage[-1].title}: {stage[-1].metric} {figures[-1]:.4g}, "
            f"mean over tasks so far {sum(figures) / len(figures):.4g} ({steps} steps, {time.monotonic() - began:.1f} s)"
        )
    FeatureStore.detach(learner)  # from here on the learner is the user's, who may change the base


def _evaluate(tasks: Sequence[Task], acts: Mapping[str, Watch], session: Session, after: int) -> list[float]:
    """Measure tasks, write the figures down, and return those of R on the test splits."""
    own = {task.id: _measure(task, acts[task.id], session.stop) for task in session.group.some(tasks)}
    for inputs in session.group.gather({name: acts[name].inputs for name in own}):
        for name, watched in inputs.items():
            acts[name].inputs = watched
    return _write_down(tasks, own, session, after)


def _measure(task: Task, act: Act, stop: Stop) -> dict[str, Found]:
    """What there is to find of a task, by split."""

    def checked(inputs: Inputs) -> Tensor:
        stop.check()
        return act(inputs)

    found = {}
    for split in task.splits:
        figures = task.evaluate(checked, split)
        found[split] = Found(figures, dict(task.documents()))
    return found


def _write_down(tasks: Sequence[Task], own: Mapping[str, Mapping[str, Found]], session: Session, after: int) -> list[float]:
    """Write down what all processes have found of some tasks, and return the figures of R on the test splits."""
    every = {name: found for measured in session.group.gather(own) for name, found in measured.items()}
    for task in tasks:
        for split, found in every[task.id].items():
            session.folder.append("eval.jsonl", {"after": after, "task": task.id, "split": split, "figures": found.figures})
            for name, text in found.documents.items():
                session.folder.write_document(f"{task.id}-{split}", name, text)
    return [every[task.id]["test"].figures[task.metric] if "test" in every[task.id] else float("nan") for task in tasks]


def make_act(learner: Learner, task: Task, machine: Machine) -> Act:
    """The learner's current output for a task, without gradient, in float32."""

    def act(inputs: Inputs) -> Tensor:
        with torch.no_grad(), machine.autocast():
            output: Tensor = learner(machine.move_inputs(inputs), task.id)
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
    turns = _turns(stage, within.step, options)
    batches = {task.id: _batches(task, learner, session, Order(session.seed, options.batch, turns[task.id])) for task in stage}
    group, recent = session.group, list(within.recent)
    saved, when = within.step, time.monotonic()

    def save(taken: int) -> None:
        """Write down where the run is after so many steps."""
        if recent:
            _check(torch.stack(recent), stage[(taken - 1) % len(stage)], taken - 1, session.folder)
        now = attrs.evolve(within, step=taken, recent=list(recent), optimizer=None, random=None)
        if taken < steps:
            now = attrs.evolve(now, optimizer=optimizer_state(optimizer), random=random_states())
        done = [one.id for one in seen[: -len(stage)]]
        if group.first:
            checkpoint.save_within(session.folder.checkpoints, learner, done, session.folder.marks(), _states(seen), now)
        session.clock.note()

    with seeded(session.seed, "train", *(task.id for task in stage)):
        if within.optimizer is not None and within.random is not None:
            set_optimizer_state(optimizer, within.optimizer)
            set_random_states(within.random)
        for step in range(within.step, steps):
            task = stage[step % len(stage)]
            try:
                drawn = list(islice(batches[task.id], options.accumulate))
            except (SidetuneError, Stopped):
                if _can_go_on(stage, step, options):
                    save(step)
                raise
            for settings in optimizer.param_groups:
                settings["lr"] = rate(options, step, steps)
            optimizer.zero_grad()
            losses = _gradient(learner, task, drawn, parameters, session)
            if options.clip is not None:
                nn.utils.clip_grad_norm_(parameters, options.clip)
            optimizer.step()
            if step == within.step:
                group.check_same(learner, f"after step {step + 1} of {_name(stage)}", drawn[-1])
            recent.append(torch.stack(list(losses.values())).sum())
            last = step + 1 == steps
            if len(recent) == TICK or last:
                loss = _check(torch.stack(recent), task, step, session.folder)
                recent.clear()
                reached = task.record()
                figures = {name: float(value) for name, value in losses.items()} | learner.record() | reached
                line = {"task": task.id, "step": step + 1, "lr": rate(options, step, steps), "mean_loss": loss, **figures}
                session.folder.append("metrics.jsonl", line)
                _draw(line, session.curve)
                session.progress.step(step + 1, loss, {name: reached[name] for name in (task.metric,) if name in reached})
            group.agree(session.stop)
            if not (last or _can_go_on(stage, step + 1, options)):
                continue
            due = session.save_every.over(step + 1 - saved, time.monotonic() - when) or (last and not session.save_every.never)
            if due or session.stop.number is not None:
                save(step + 1)
                saved, when = step + 1, time.monotonic()
                session.stop.check()
    return steps


def _gradient(
    learner: Learner, task: Task, batches: Sequence[Batch], parameters: Sequence[nn.Parameter], session: Session
) -> dict[str, Tensor]:
    """Add the gradient of one step to the parameters: the mean over its batches, of each of which every process computes its share.

    Returns the loss and each penalty, averaged likewise.
    """
    group = session.group
    sums: dict[str, Tensor] = {}
    for batch in batches:
        share = group.share(batch)
        with as_whole(group, share):
            with session.machine.autocast():
                output = learner(share.batch.inputs, task.id)
            losses = {"loss": task.loss(output.float(), share.batch).mean(), **learner.penalty(share.batch)}
        terms = torch.stack([loss.float() for loss in losses.values()]) * (share.weight / len(batches))
        terms.sum().backward()  # type: ignore[no-untyped-call]
        for name, term in zip(losses, terms.detach(), strict=True):
            sums[name] = sums[name] + term if name in sums else term
    totals = group.add_up(parameters, torch.stack(list(sums.values())))
    return dict(zip(sums, totals, strict=True))


def _turns(stage: Sequence[Task], step: int, options: TrainOptions) -> dict[str, int]:
    """How many batches each task has had after so many steps."""
    return {task.id: (step + len(stage) - 1 - place) // len(stage) * options.accumulate for place, task in enumerate(stage)}


def _can_go_on(stage: Sequence[Task], step: int, options: TrainOptions) -> bool:
    """Whether a run can go on after so many steps."""
    turns = _turns(stage, step, options)
    return all(task.can_go_on(turns[task.id], options.batch) for task in stage)


def _states(tasks: Sequence[Task]) -> dict[str, Any]:
    """What each task holds itself, by id; those that hold nothing are left out."""
    return {task.id: state for task in tasks if (state := task.state())}


def _draw(line: Mapping[str, Any], curve: Curve) -> None:
    """A line of ``metrics.jsonl`` as points of curves."""
    figures = {name: value for name, value in line.items() if name not in ("task", "step", "lr", "mean_loss")}
    curve({f"{line['task']}/{name}": value for name, value in figures.items()}, line["step"])


def _steps(task: Task, options: TrainOptions) -> int:
    return options.steps if options.epochs is None else round(options.epochs * task.steps_per_epoch(options.batch * options.accumulate))


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
    own = {}
    for task in tasks:
        _grow(fresh, task, session)
        _ready(fresh, [], session)
        if task in session.group.some(tasks):
            own[task.id] = _measure(task, make_act(fresh, task, session.machine), session.stop)
    _write_down(tasks, own, session, after=-1)


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
