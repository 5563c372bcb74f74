"""Evaluations within the training of a stage, and what they decide: early stopping, and the best weights.

An evaluation changes nothing: the random generators, the mode of each module and the state of the tasks are
afterwards what they were, so that training has the same bits with and without.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
from torch import Tensor, nn

from sidetune_core.assembly.cards import CardTask
from sidetune_core.assembly.evaluation import Evaluation, evaluate_split
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.scenario_evaluation import evaluate_without_task_id
from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.errors import OptionError, shorten
from sidetune_core.interfaces.buffers import BufferDict
from sidetune_core.interfaces.capabilities import set_task_state, task_states
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.interfaces.training import PhaseSteps
from sidetune_core.io.printable import counted
from sidetune_core.results.metrics import have_one_unit, mean
from sidetune_core.scenarios import DEFAULT
from sidetune_core.seeding import random_states, set_random_states
from sidetune_core.storage.within import EVALUATION, SELECTION
from sidetune_core.training.context import Context
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.stage import Stage, batch_size
from sidetune_core.training.tracked import TrackedLearner

VAL = "val"


@attrs.define(eq=False)
class _State:
    """Of a stage, in its checkpoints."""

    evaluated: int = -1
    """Step of the latest evaluation."""
    skipped: int = 0
    """Steps that were left out so far, because a phase was stopped early."""
    best: float | None = None
    """The best value on val in the phase."""
    best_step: int = 0
    since: int = 0
    """Evaluations since then."""
    entries: dict[str, Any] = attrs.field(factory=dict)
    """The entries of the state dict then that training may change, if they are to be restored."""
    tasks: dict[str, Any] = attrs.field(factory=dict)
    """State of the tasks of the stage then, by id."""


class WithinTask:
    """Evaluates a stage while it is trained.

    Args:
        tracked: the learner, with the tasks of the stage started.
        stage: that is trained.
        seen: the tasks trained before, then those of the stage.
        state: what `state` returned in an earlier process; None for the start of the stage.
        context: of the run.
        recorder: of the run.

    Raises:
        OptionError: val decides, and a task of the stage has none, or tasks that are trained jointly have
            metrics of several units.
    """

    def __init__(
        self,
        tracked: TrackedLearner,
        stage: Stage,
        seen: Sequence[Task],
        state: Mapping[str, Any] | None,
        context: Context,
        recorder: Recorder,
    ) -> None:
        self._options = context.options
        check_val(stage.tasks, self._options)
        metrics = [task.metric for task in stage.tasks]
        if self._options.selects and not have_one_unit(metrics):
            raise OptionError(
                f"{stage.name} are trained jointly and have metrics of several units ({shorten(metrics)}), "
                "so that no value decides: leave out --train.patience and --train.select"
            )
        self._tracked, self._stage, self._context, self._recorder = tracked, stage, context, recorder
        self._trained = len(seen) - len(stage.tasks)
        measured = seen if self._options.eval_every is not None else stage.tasks
        self._measured = [task for task in measured if not isinstance(task, CardTask)]
        self._state = _State(**state) if state is not None else _State()

    @property
    def is_on(self) -> bool:
        """Whether there is anything to evaluate."""
        return self._options.eval_every is not None or self._options.selects

    @property
    def skipped(self) -> int:
        """Steps that were left out so far, because a phase was stopped early."""
        return self._state.skipped

    def state(self) -> dict[str, Any] | None:
        """For a checkpoint: plain values and tensors; None if nothing is evaluated."""
        return attrs.asdict(self._state, recurse=False) if self.is_on else None

    def begin(self) -> None:
        """Evaluate before the first step of the stage, if all seen tasks are."""
        if self._options.eval_every is not None and self._state.evaluated < 0:
            self._evaluate(0)

    def after_step(self, step: int, phase: PhaseSteps) -> bool:
        """Evaluate after `step` steps if it is time to; returns whether the phase is to end early."""
        if not self.is_on or not (step == phase.end or (step - phase.first) % self._interval() == 0):
            return False
        evaluations = self._evaluate(step)
        if not self._options.selects:
            return False
        value = self._value(evaluations)
        state, sign = self._state, 1 if self._stage.last.higher_is_better else -1
        if value is not None and (state.best is None or sign * value > sign * state.best):
            state.best, state.best_step, state.since = value, step, 0
            if self._options.select == "best":
                state.entries = _entries(self._tracked)
                state.tasks = copy.deepcopy(task_states(self._stage.tasks))
        else:
            state.since += 1
        patience = self._options.patience
        return patience is not None and state.since >= patience and step < phase.end

    def end_phase(self, step: int, phase: PhaseSteps) -> None:
        """End a phase after its last step: restore the best weights, and say what was decided."""
        if not self._options.selects:
            return
        state, stage = self._state, self._stage
        stopped = step < phase.end
        restored = bool(state.entries) and state.best_step != step
        if restored:
            _restore(self._tracked, state.entries)
            for task in stage.tasks:
                if task.id in state.tasks:
                    set_task_state(task, state.tasks[task.id])
        self._recorder.within(
            {
                "kind": SELECTION,
                "stage": stage.name,
                "phase": phase.phase.name,
                "steps": step - phase.first,
                "planned": phase.end - phase.first,
                "best_step": state.best_step - phase.first if state.best is not None else None,
                "metric": stage.last.metric,
                "value": state.best,
                "stopped": stopped,
                "restored": restored,
            }
        )
        if stopped or restored:
            self._recorder.info(_decision(stage, phase, state, step, stopped, restored))
        if restored and self._options.eval_every is not None:
            self._evaluate(step, restored=True)
        self._state = _State(evaluated=phase.end, skipped=state.skipped + phase.end - step)

    def _interval(self) -> int:
        """Steps between two evaluations.

        Raises:
            OptionError: it would be an epoch, and the number of its steps is unknown.
        """
        options = self._options
        if options.eval_every is not None:
            return options.eval_every
        task = self._stage.last
        try:
            steps = task.steps_per_epoch(batch_size(task, options) * options.accumulate)
        except OptionError as error:
            raise OptionError(
                f"task {task.id} has no epochs after which it could be evaluated: pass --train.eval-every 100"
            ) from error
        return max(1, steps) * len(self._stage.tasks)

    def _evaluate(self, step: int, restored: bool = False) -> Mapping[str, Evaluation]:
        """Evaluate and record; each task in one of the processes."""
        context, options, own = self._context, self._options, dict[str, Evaluation]()
        learner = self._tracked.learner
        with untouched(learner, self._measured):
            for task in context.group.shard(self._measured):
                own[task.id] = self._evaluation(task)
        gathered = context.group.gather(own)
        evaluations = {id: evaluation for one in gathered for id, evaluation in one.items()}
        for task in self._measured:
            line: dict[str, Any] = {
                "kind": EVALUATION,
                "stage": self._stage.name,
                "trained": self._trained,
                "step": step,
                "task": task.id,
                "split": self._split(task),
                "metrics": dict(evaluations[task.id].metrics),
            }
            if options.eval_examples is not None:
                line["examples"] = options.eval_examples
            if evaluations[task.id].not_finite:
                line["not_finite"] = evaluations[task.id].not_finite
            self._recorder.within(line | ({"restored": True} if restored else {}))
        self._state.evaluated = step
        return evaluations

    def _evaluation(self, task: Task) -> Evaluation:
        """One task, without its id where that is not known at test time."""
        learner, machine = self._tracked.learner, self._context.machine
        split, examples = self._split(task), self._options.eval_examples
        known = make_predict(learner, task, machine)
        if learner.scenario == DEFAULT:
            return evaluate_split(task, known, split, examples)
        unknown = make_predict(learner, task, machine, known=False)
        return evaluate_without_task_id(task, known, unknown, learner, split, examples)

    def _split(self, task: Task) -> str:
        chosen = self._options.eval_split
        if chosen == "test" or VAL not in task.splits:
            return "test"
        return VAL

    def _value(self, evaluations: Mapping[str, Evaluation]) -> float | None:
        """What is selected by: the metric on val, averaged over the tasks of the stage."""
        return mean(evaluations[task.id].metrics[task.metric] for task in self._stage.tasks)


@contextmanager
def untouched(learner: Learner, tasks: Sequence[Task]) -> Iterator[None]:
    """Evaluate in eval mode, and leave generators, modes and the state of tasks as they were."""
    generators, states = random_states(), copy.deepcopy(task_states(tasks))
    in_training = [module for module in learner.modules() if module.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True
        for task in tasks:
            if task.id in states:
                set_task_state(task, states[task.id])
        set_random_states(generators)


def check_val(tasks: Sequence[Task], options: TrainOptions, has_fraction: bool = False) -> None:
    """Check that the tasks have a split val if it decides what training ends with.

    Args:
        tasks: of the run.
        options: of training.
        has_fraction: whether the env has the option ``--env.val-fraction``.

    Raises:
        OptionError: some have none, are of several metrics and trained jointly, or test would decide.
    """
    if not options.selects:
        return
    option = f"--train.patience {options.patience}" if options.patience is not None else "--train.select best"
    if options.eval_split == "test":
        raise OptionError(f"{option} decides on split val: leave out --train.eval-split test")
    without = [task.id for task in tasks if VAL not in task.splits and not isinstance(task, CardTask)]
    if without:
        remedy = (
            "pass --env.val-fraction 0.1 to hold one out of the training examples"
            if has_fraction
            else "give them one, or leave the option out"
        )
        raise OptionError(
            f"{option} decides on split val, which {len(without)} of {len(tasks)} tasks do not have "
            f"({shorten(without)}): {remedy}"
        )


def _entries(tracked: TrackedLearner) -> dict[str, Any]:
    """Copies of the entries of the state dict that training may change now, extra state included."""
    names, tensors = tracked.in_training(), tracked.tensors
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in tracked.learner.state_dict().items()
        if name in names or name not in tensors
    }


def _restore(tracked: TrackedLearner, entries: Mapping[str, Any]) -> None:
    """Load what `_entries` returned; all else stays as it is."""
    learner: nn.Module = tracked.learner
    names, own = tracked.in_training(), learner.state_dict()
    free = tuple(f"{name}." for name, one in learner.named_modules() if isinstance(one, BufferDict))
    # loading replaces all tensors of a BufferDict: those that are not trained now are given as they are
    kept = {name: value for name, value in own.items() if name.startswith(free) and name not in names}
    learner.load_state_dict({**(kept if free else {}), **entries}, strict=False)


def _decision(
    stage: Stage, phase: PhaseSteps, state: _State, step: int, stopped: bool, restored: bool
) -> str:
    """What a phase ends with, in a sentence."""
    planned, steps = phase.end - phase.first, step - phase.first
    took = f"stopped after step {steps} of {planned}" if stopped else f"took {counted(steps, 'step')}"
    best = f"{stage.last.metric} on val was best after step {state.best_step - phase.first}"
    return f"{stage.name}: {took}; {best}{', whose weights are restored' if restored else ''}"
