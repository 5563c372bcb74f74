"""The evaluation of a run's tasks afterwards, on its own data or on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import attrs
from torch import nn

from sidetune_core.assembly.cards import CardStream, CardTask, make_handler
from sidetune_core.assembly.evaluation import evaluate_split
from sidetune_core.assembly.objects import require_network, require_tasks
from sidetune_core.assembly.parts import Part, read_parts
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.restore import read_resolved, restore
from sidetune_core.assembly.scenario_evaluation import evaluate_without_task_id
from sidetune_core.config.choice import Choice, choice
from sidetune_core.config.given import has_object
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.errors import FitError, OptionError, RunError, shorten, suggest
from sidetune_core.interfaces.capabilities import set_task_state
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.scenarios import DEFAULT
from sidetune_core.serving.evaluation_data import PartData, open_parts, replaced_part
from sidetune_core.serving.learner import choose_device
from sidetune_core.serving.source import Trained, read_run
from sidetune_core.storage.data_file import read_data
from sidetune_core.storage.evaluations import read_evaluations
from sidetune_core.storage.run_folder import RunFolder, open_run
from sidetune_core.supervised.class_metrics import ClassMetrics, read_classes
from sidetune_core.supervised.task import SupervisedTask
from sidetune_core.system.device import Machine


@attrs.frozen
class TaskEvaluation:
    """The metrics of a task on a split."""

    task: str
    title: str
    split: str
    metric: str
    """The one that R records."""
    metrics: Mapping[str, float | None]
    """By name; None where an output is not finite."""
    recorded: Mapping[str, float | None]
    """What the run has recorded for this split after the same checkpoint; empty if it has none."""
    same_data: bool | None
    """Whether the data are those of the run, by their fingerprints; None if one is unknown."""
    not_finite: str = ""
    """Why metrics are None."""
    data_changes: tuple[str, ...] = ()
    """What of the task's data is not as in the run, in lines; empty where that is unknown."""
    classes: tuple[ClassMetrics, ...] = ()
    """Of a task of classes or labels, where it was asked for."""

    @property
    def value(self) -> float | None:
        """Of the metric that R records."""
        return self.metrics[self.metric]

    @property
    def equals_recorded(self) -> bool | None:
        """Whether the run has recorded the same metrics; None if it has recorded none."""
        return not self.different if self.metric in self.recorded else None

    @property
    def different(self) -> tuple[str, ...]:
        """The metrics that the run has recorded with another value."""
        return tuple(
            name
            for name, value in self.recorded.items()
            if name not in self.metrics or self.metrics[name] != value
        )


def evaluate(
    run: Path | str,
    split: str = "test",
    tasks: str | Sequence[str] | None = None,
    env: str | Mapping[str, Any] | Sequence[Task] | None = None,
    *,
    base: nn.Module | None = None,
    per_class: bool = False,
    device: str | None = None,
    trust_local_code: bool = False,
) -> list[TaskEvaluation]:
    """Evaluate the newest checkpoint of a run. Nothing is written, and the run is not locked.

    Args:
        run: the run folder.
        split: a split of the env.
        tasks: ids of tasks; None for all that are trained.
        env: other data: options of the run's env that differ, such as ``{"root": "photos"}``, or another env
            by name, or a table with its name and options, or tasks such as those of `Task.from_dataset`.
            Tasks are matched by id, added tasks of an extended run by the id that their env gave them. Of a
            run with tasks of several envs, the data of one are replaced: that of `tasks`.
        base: the network that the run was given in Python; None if it has a base by name.
        per_class: also return recall, precision and F1 of each class.
        device: such as ``cpu``; None for that of the run, or the CPU where this computer has no such device.
        trust_local_code: import code that the run names.

    Raises:
        UntrustedCode: the run names code, without `trust_local_code`.
        FitError: a task of the data is another than that of the run: its inputs, outputs or classes differ.
        OptionError: there is no such task or split.
        SidetuneError: the run or the data cannot be read.
    """
    folder = open_run(Path(run))
    parts = read_parts(folder, read_resolved(folder, trust_local_code), trust_local_code)
    other = None
    if env is not None:
        spec = replaced_part(parts, _listed(tasks)).resolved.requested
        assert spec is not None  # it was read from run.json
        other = resolve(attrs.evolve(spec, env=_changed(spec.env, env), conditions=None))
    elif all(part.resolved.components["env"].given is None for part in parts):
        require_tasks(parts[0].resolved, f"sidetune_core.evaluate({str(run)!r}", "env=[task, ...]")
    return evaluate_with(
        folder,
        parts,
        split,
        tasks,
        other,
        base=base,
        per_class=per_class,
        device=device,
        trust_local_code=trust_local_code,
    )


def evaluate_with(
    folder: RunFolder,
    parts: Sequence[Part],
    split: str = "test",
    tasks: str | Sequence[str] | None = None,
    other: ResolvedRun | None = None,
    *,
    base: nn.Module | None = None,
    per_class: bool = False,
    device: str | None = None,
    trust_local_code: bool = False,
) -> list[TaskEvaluation]:
    """`evaluate` for the parts of a run; `other` is a run with the env that replaces that of one part, and
    whose other components are not used."""
    if base is None:
        argument = ", env=[task, ...]" if has_object(parts[0].resolved, "env") else ""
        require_network(parts[0].resolved, f"sidetune_core.evaluate({str(folder.path)!r}{argument}")
    trained, ids = read_run(folder, trust_local_code, base), _listed(tasks)
    machine = choose_device(trained.resolved, device)
    _check_trained(trained, ids)
    if other is not None:
        replaced = replaced_part(parts, ids)
        parts = [attrs.evolve(part, resolved=other) if part is replaced else part for part in parts]
    needs_env = [id for id, card in trained.cards.items() if card.head == "env"]
    needed = {*(trained.tasks if ids is None else ids), *needs_env}
    # the current folder stays what it is, whatever an env prefers
    with chdir("."), open_parts(parts, needed, ids) as opened:
        data = {id: one for one in opened for id in one.part.tasks}
        chosen = _choose(trained, data, ids, other is not None)
        for task in chosen:
            _check_fit(trained.cards[task.id], task, split)
        available = {id: task for one in opened for id, task in one.tasks.items()}
        learner = _restore(trained, available, machine, trust_local_code)
        recorded = _recorded(folder, split, len(trained.cards))
        evaluations, records = [], read_data(folder)
        changes = {
            id: lines
            for one in opened
            for id, lines in one.changes(records, _known_data(trained, one.part)).items()
        }
        for task in chosen:
            if task.id in trained.task_states:
                set_task_state(task, trained.task_states[task.id])
            predict = make_predict(learner, task, machine)
            unknown = make_predict(learner, task, machine, known=False)
            fingerprint, known = data[task.id].fingerprint, trained.cards[task.id].data
            evaluations.append(
                _evaluate(
                    task,
                    (learner, predict, unknown),
                    split,
                    recorded.get(task.id, {}),
                    fingerprint == known if fingerprint and known else None,
                    per_class,
                    changes.get(task.id, ()),
                )
            )
    return evaluations


def _known_data(trained: Trained, part: Part) -> str:
    """The fingerprint of the data that the tasks of a part were trained on; empty if unknown, or if it
    differs from task to task."""
    known = {trained.cards[id].data for id in part.tasks if id in trained.cards}
    return known.pop() if len(known) == 1 else ""


def _listed(tasks: str | Sequence[str] | None) -> list[str] | None:
    return [tasks] if isinstance(tasks, str) else None if tasks is None else list(tasks)


def _changed(own: Choice | None, env: str | Mapping[str, Any] | Sequence[Task]) -> Choice | None:
    """The env of a run with other options, or another env."""
    if isinstance(env, Mapping) and "name" not in env and own is not None:
        return attrs.evolve(own, options={**own.options, **env})
    return choice(env, "env")


def _check_trained(trained: Trained, ids: Sequence[str] | None) -> None:
    """Check that tasks are trained.

    Raises:
        OptionError: one is not.
    """
    for task in ids or ():
        if task not in trained.tasks:
            listed = ", ".join(f"'{name}' ({trained.cards[name].title})" for name in trained.tasks)
            raise OptionError(
                f"the run has not trained a task '{task}'; it has {listed}.{suggest(task, trained.tasks)}"
            )


def _choose(
    trained: Trained, data: Mapping[str, PartData], ids: Sequence[str] | None, has_other: bool
) -> list[Task]:
    """The tasks to evaluate, by default all that are trained; where other data are given, all that these
    have.

    Raises:
        FitError: the data do not have a task.
    """
    if ids is None and has_other:
        chosen = [data[id].tasks[id] for id in trained.tasks if id in data[id].tasks]
        if chosen:
            return chosen
        available = next(iter(data.values())).available
        raise FitError(
            f"the data have none of the run's tasks {shorten(trained.tasks)}; their tasks are "
            f"{shorten(available)}"
        )
    return [data[id].find(id) for id in (trained.tasks if ids is None else ids)]


def _check_fit(card: TaskCard, task: Task, split: str) -> None:
    """Check that a task of the data is the one that was trained.

    Raises:
        OptionError: it has no such split.
        FitError: inputs, outputs or the names of the classes differ.
    """
    if split not in task.splits:
        raise OptionError(
            f"task '{task.id}' has no split '{split}' (--split); its splits are {', '.join(task.splits)}"
        )
    given = {name: tuple(shape) for name, shape in task.inputs.items()}
    if given != {name: tuple(shape) for name, shape in card.inputs.items()}:
        raise FitError(
            f"task '{task.id}' was trained on inputs {dict(card.inputs)}; those of the data are {given}"
        )
    own, other = card.outputs, task.outputs
    if own.kind != other.kind or (own.size is not None and other.size is not None and own.size != other.size):
        raise FitError(
            f"task '{task.id}' was trained with {own.size} outputs ({own.kind}); the data need {other.size} "
            f"({other.kind})"
        )
    if own.names and other.names and own.names != other.names:
        differing = [pair for pair in zip(own.names, other.names, strict=False) if pair[0] != pair[1]]
        first, second = differing[0]
        raise FitError(
            f"task '{task.id}' was trained on other classes, or on the same in another order: where the run "
            f"has '{first}', the data have '{second}' ({len(differing)} of {len(own.names)} differ)"
        )


def _restore(
    trained: Trained, available: Mapping[str, Task], machine: Machine, trust_local_code: bool
) -> Learner:
    """The learner; tasks whose heads only the env can make are taken from the data."""
    tasks: list[Task] = []
    for name, card in trained.cards.items():
        if card.head == "env" and name in available:
            tasks.append(available[name])
        else:
            makes_head = card.head == "handler"
            handler = make_handler(card, Path(trained.source), trust_local_code) if makes_head else None
            tasks.append(CardTask(card, handler))
    return restore(
        trained.resolved, CardStream(tasks), tasks, trained.state, trained.source, machine, check=False
    )


def _recorded(folder: RunFolder, split: str, trained: int) -> Mapping[str, Mapping[str, float | None]]:
    """The metrics of each task that the run recorded on a split after the first `trained` tasks."""
    try:
        tasks = [str(task["id"]) for task in folder.read_json("run.json")["tasks"]]
        rows = read_evaluations(folder).rows(tasks, split, lambda line: line["figures"])
        row = rows.get(trained - 1, ())
        return {task: metrics for task, metrics in zip(tasks, row, strict=False) if metrics is not None}
    except (KeyError, TypeError, RunError):  # the evaluation does not need it
        return {}


def _evaluate(
    task: Task,
    by: tuple[Learner, Predict, Predict],
    split: str,
    recorded: Mapping[str, float | None],
    same_data: bool | None,
    per_class: bool,
    data_changes: tuple[str, ...] = (),
) -> TaskEvaluation:
    learner, predict, unknown = by
    if learner.scenario == DEFAULT:
        evaluation = evaluate_split(task, predict, split)
    else:
        evaluation = evaluate_without_task_id(task, predict, unknown, learner, split)
    return TaskEvaluation(
        task.id,
        task.title,
        split,
        task.metric,
        evaluation.metrics,
        recorded,
        same_data,
        evaluation.not_finite,
        data_changes,
        read_classes(evaluation.documents) if per_class and isinstance(task, SupervisedTask) else (),
    )
