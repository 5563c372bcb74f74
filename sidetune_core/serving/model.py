"""Trained tasks in use: loaded from run folders and adapters, without their data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.assembly.scenario_evaluation import joint_outputs
from sidetune_core.config.spec import Trust
from sidetune_core.errors import InputError, RunError, suggest
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import Prediction, TaskHandler
from sidetune_core.scenarios import DEFAULT
from sidetune_core.serving import policies
from sidetune_core.serving.adapter import read_adapter
from sidetune_core.serving.adapter_folder import is_adapter
from sidetune_core.serving.base_weights import Bases
from sidetune_core.serving.hub import download, is_address, parse_address
from sidetune_core.serving.inputs import as_inputs, split
from sidetune_core.serving.learner import ServedLearner, choose_device, make_handlers, make_joint_handler
from sidetune_core.serving.network import TaskNetwork
from sidetune_core.serving.predict import ServedTask, predict_each, predict_mixed
from sidetune_core.serving.source import Trained, read_run
from sidetune_core.storage.run_folder import open_run

ANY = "any"
"""In place of the id of a task, where it is not known."""

BATCH_SIZE = 64
"""Most examples that go through a network at once, unless the caller says otherwise."""


def load(
    *paths: Path | str,
    device: str | None = None,
    trust_local_code: bool = False,
    base: Path | str | Sequence[Path | str] | nn.Module = (),
) -> Model:
    """Load the tasks of run folders and adapters, to use them: no data is read, nothing is locked or written.

    A run that is unfinished has the tasks that it has finished.

    Args:
        paths: run folders and adapters; their tasks must have different ids. ``hf://owner/name@revision`` is
            an adapter on the Hugging Face Hub (extra ``hub``).
        device: such as ``cpu`` or ``cuda``; None for that of the run, or the CPU where this computer has no
            such device.
        trust_local_code: import code that the folders name.
        base: runs or files of weights with the bases of adapters, which are otherwise built from their
            components and options, or read from the adapter; or the network that runs were given in Python,
            whose weights come from their checkpoints.

    Raises:
        UntrustedCode: a folder names code, without `trust_local_code`.
        SidetuneError: a folder cannot be used; the message says why.
    """
    network = base if isinstance(base, nn.Module) else None
    places = () if isinstance(base, nn.Module) else [base] if isinstance(base, str | Path) else base
    model = Model(device, trust_local_code, places, network)
    for path in paths:
        model.add(path)
    return model


class TaskExists(RunError):
    """The model has a task of this id already.

    Args:
        message: what to do.
        task: the id.
    """

    def __init__(self, message: str, task: str) -> None:
        super().__init__(message)
        self.task = task


class Model:
    """Trained tasks by id. Made by `load`.

    Threads may predict while others add and remove tasks: a call uses the tasks that there were at its
    beginning.
    """

    def __init__(
        self,
        device: str | None = None,
        trust_local_code: Trust = False,
        bases: Sequence[Path | str] = (),
        network: nn.Module | None = None,
    ) -> None:
        self._device, self._trust, self._network = device, trust_local_code, network
        self._bases = Bases(bases, bool(trust_local_code))
        self._tasks: Mapping[str, ServedTask] = MappingProxyType({})
        self._joint: ServedTask | None = None
        self._changes = Lock()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Ids of the tasks, in the order in which they were loaded."""
        return tuple(self._tasks)

    @property
    def cards(self) -> Mapping[str, TaskCard]:
        """Of each task: its title, inputs, classes, metric and more."""
        return {task: served.card for task, served in self._tasks.items()}

    def add(self, path: Path | str, rename: Mapping[str, str] = MappingProxyType({})) -> None:
        """Add the tasks of a run folder or an adapter. Bases that are the same share their memory.

        Args:
            path: of the folder.
            rename: new ids of tasks by their own.

        Raises:
            SidetuneError: the folder cannot be used, or the model has a task of the same id.
        """
        self.add_trained(self._read(path), rename)

    def add_trained(self, trained: Trained, rename: Mapping[str, str] = MappingProxyType({})) -> None:
        """`add` for tasks that have been read, or that were never in a folder."""
        names = _renamed(trained, rename)
        self._check_free(names, trained.source)
        handlers = make_handlers(trained, self._trust)
        learner = ServedLearner(trained, choose_device(trained.resolved, self._device), handlers)
        added = {
            new: ServedTask(
                card=attrs.evolve(trained.cards[task], id=new),
                handler=handlers[task],
                learner=learner,
                name=task,
                sharing=_sharing(trained, task),
            )
            for task, new in names.items()
        }
        with self._changes:
            self._check_free(names, trained.source)
            learner.share_bases(_learners(self._tasks))
            self._bases.offer(learner.learner, trained.resolved.components.get("base"))
            self._tasks = MappingProxyType({**self._tasks, **added})
            self._joint = _joint(self._tasks, trained, self._trust)

    @property
    def predicts_without_task_id(self) -> bool:
        """Whether `predict` needs no task, since its tasks are those of a run in the scenario ``domain`` or
        ``class``."""
        return self._joint is not None

    def remove(self, task: str) -> None:
        """Remove a task; the memory of its learner is freed with the last of its tasks.

        Raises:
            InputError: there is no such task.
        """
        with self._changes:
            _find(self._tasks, task)
            rest = {name: served for name, served in self._tasks.items() if name != task}
            self._tasks = MappingProxyType(rest)
            self._joint = None

    def predict(
        self,
        inputs: Any,
        task: str | Sequence[str] | None = None,
        tasks: Sequence[str] | Literal["all"] | None = None,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> Any:
        """Predictions for raw inputs: whatever the handler of the task's env takes, such as images.

        Args:
            inputs: an example, or several: a list, or an array with a further axis.
            task: the task, or a task for each example; None if the model has one task only, or is that of a
                run in the scenario ``domain`` or ``class``: predictions are then among the classes of all
                tasks, without a task id. `ANY` is the same.
            tasks: several tasks, or ``all``: each predicts all examples, and the base runs once for each of
                them.
            batch_size: most examples that go through the networks at once.

        Returns:
            A `Prediction`, or a list of them for several examples; with `tasks` a dict of these by task.

        Raises:
            InputError: there is no such task, or an input is not what it takes.
            RunError: an output is not finite.
        """
        present = self._tasks
        if tasks is not None:
            if task is not None:
                raise InputError("give either task or tasks")
            names = _listed(tasks, present)
            served = [_find(present, name, self._joint) for name in names]
            examples, several = split(served[0].handler, inputs)
            rows = predict_each(served, examples, batch_size)
            return {name: row if several else row[0] for name, row in zip(names, rows, strict=True)}
        if task is not None and not isinstance(task, str):
            return self._predict_mixed(present, inputs, _names(task, "task"), batch_size)
        one = _find(present, task, self._joint)
        examples, several = split(one.handler, inputs)
        (predictions,) = predict_each([one], examples, batch_size)
        return predictions if several else predictions[0]

    def act(
        self,
        observation: Any,
        task: str | None = None,
        deterministic: bool | None = None,
        generator: torch.Generator | None = None,
        action_mask: Any = None,
    ) -> Any:
        """The action of a policy for an observation, or a list of actions for a list of observations.

        Args:
            observation: as the task's environment gives it.
            task: the task; None if the model has one task only.
            deterministic: take the most likely action, or sample one; None for what the run evaluated.
            generator: of sampled actions; None for one with a seed of its own.
            action_mask: not zero where an action is valid, for an environment that says so.

        Raises:
            InputError: there is no such task, it has no policy or one that needs an `actor`, or the
                observation is not what it takes.
        """
        return policies.act(self, observation, task, deterministic, generator, action_mask)

    def actor(
        self, task: str | None = None, deterministic: bool | None = None, seed: int | None = None
    ) -> policies.Actor:
        """A policy with memory, for whole episodes.

        Args:
            task: the task; None if the model has one task only.
            deterministic: see `act`.
            seed: of sampled actions; None for one that differs each time.

        Raises:
            InputError: there is no such task, or it has no policy.
        """
        return policies.Actor(self, task, deterministic, seed)

    def outputs(self, inputs: Mapping[str, Tensor] | Tensor, task: str | None = None) -> Tensor:
        """The raw output (B, ...) in float32 on the model's device, as evaluations of the run computed it.

        Args:
            inputs: of the network, (B, *shape) by name, or alone if the task has one input; preprocessed.
            task: the task; None if the model has one task only.

        Raises:
            InputError: there is no such task, or it has other inputs.
        """
        served = _find(self._tasks, task)
        prepared = as_inputs(served.card, inputs)
        return served.learner.predict(served.learner.machine.move_inputs(prepared), served.name)

    def module(self, task: str | None = None) -> TaskNetwork:
        """A copy of the task's network as a plain module, with the preprocessing of tensors inside.

        It computes what `outputs` does, and can be pickled and exported (see `write_network`).

        Args:
            task: the task; None if the model has one task only.

        Raises:
            InputError: there is no such task.
        """
        served = _find(self._tasks, task)
        assert served.name is not None  # of a single task
        return served.learner.make_network(served.name, served.card, served.handler)

    def handler(self, task: str | None = None) -> TaskHandler:
        """What preprocesses the raw inputs of a task, and gives its outputs their meaning.

        Raises:
            InputError: there is no such task.
        """
        return _find(self._tasks, task, self._joint).handler

    def __repr__(self) -> str:
        return f"Model({', '.join(self.tasks) or 'no tasks'})"

    @staticmethod
    def _predict_mixed(
        present: Mapping[str, ServedTask], inputs: Any, tasks: Sequence[str], batch_size: int
    ) -> list[Prediction]:
        served = {name: _find(present, name) for name in tasks}
        if not served:
            raise InputError("there are no examples to predict")
        examples, several = split(next(iter(served.values())).handler, inputs)
        if not several or len(examples) != len(tasks):
            raise InputError(
                f"there are {len(examples)} examples and {len(tasks)} tasks; give a task for each"
            )
        return predict_mixed(served, tasks, examples, batch_size)

    def _read(self, path: Path | str) -> Trained:
        """What a path leads to.

        Raises:
            RunError: neither a run nor an adapter.
        """
        trust = bool(self._trust)
        if is_address(path):
            found = download(parse_address(str(path)))
            return read_adapter(found.folder, self._bases, trust, found.links_within)
        folder = Path(path).expanduser()
        if is_adapter(folder):
            return read_adapter(folder, self._bases, trust)
        return read_run(open_run(folder), self._trust, self._network)

    def _check_free(self, names: Mapping[str, str], source: str) -> None:
        for task, name in names.items():
            if name in self._tasks:
                raise TaskExists(
                    f"{source} has a task '{name}', and the model has one already. Rename it: "
                    f'model.add("{source}", rename={{"{task}": "another"}})',
                    name,
                )


def _renamed(trained: Trained, rename: Mapping[str, str]) -> dict[str, str]:
    """The ids in the model by those in the source."""
    for task in rename:
        if task not in trained.tasks:
            known = ", ".join(trained.tasks)
            raise InputError(
                f"{trained.source} has no task '{task}'; it has {known}{suggest(task, trained.tasks)}"
            )
    names = {task: rename.get(task, task) for task in trained.tasks}
    if len(set(names.values())) < len(names):
        raise InputError(f"{trained.source}: two tasks would have one id: {', '.join(names.values())}")
    return names


def _sharing(trained: Trained, task: str) -> str:
    """A text that is equal for tasks which preprocess alike; unique where a task has a state of its own."""
    card = trained.cards[task]
    own = f"{trained.source}/{task}" if task in trained.task_states else ""
    return json.dumps([card.env, card.to_json()["inputs"], card.values, own], sort_keys=True, default=str)


def _learners(tasks: Mapping[str, ServedTask]) -> list[ServedLearner]:
    return list(dict.fromkeys(served.learner for served in tasks.values()))


def _joint(tasks: Mapping[str, ServedTask], trained: Trained, trust: Trust) -> ServedTask | None:
    """All tasks of a run together, without a task id; None if there are others, or if the learner needs the
    id."""
    learners = _learners(tasks)
    if len(learners) > 1 or trained.resolved.scenario == DEFAULT:
        return None
    last = list(trained.cards)[-1]
    outputs = joint_outputs(learners[0].learner)
    card = attrs.evolve(trained.cards[last], id=ANY, title="all tasks", outputs=outputs)
    handler = make_joint_handler(trained, last, card, trust)
    return ServedTask(card, handler, learners[0], None, _sharing(trained, last))


def _find(tasks: Mapping[str, ServedTask], task: str | None, joint: ServedTask | None = None) -> ServedTask:
    """A task by id; None for the only one.

    Args:
        tasks: of the model.
        task: its id.
        joint: all of them, where no task id is needed: for None, and for `ANY`.

    Raises:
        InputError: there is no such task, or several to choose from.
    """
    if not tasks:
        raise InputError("the model has no tasks: load a run folder or an adapter")
    if joint is not None and task in (None, ANY) and task not in tasks:
        return joint
    listed = ", ".join(f"'{name}' ({served.card.title})" for name, served in tasks.items())
    if task is None:
        if len(tasks) > 1:
            raise InputError(f"the model has several tasks; choose one: {listed}")
        return next(iter(tasks.values()))
    if task not in tasks:
        raise InputError(f"the model has no task {task!r}; it has {listed}.{suggest(str(task), tasks)}")
    return tasks[task]


def _names(tasks: object, argument: str) -> list[str]:
    """Ids of tasks, as the user gave them."""
    if isinstance(tasks, Iterable):
        names = list(tasks)
        if all(isinstance(name, str) for name in names):
            return names
    raise InputError(f"{argument} is {tasks!r}; give ids of tasks, such as 't0'")


def _listed(tasks: Sequence[str] | str, present: Mapping[str, ServedTask]) -> list[str]:
    given = [tasks] if isinstance(tasks, str) else _names(tasks, "tasks")
    names = list(present) if tasks == "all" else given
    if not names:
        raise InputError("the model has no tasks" if not present else "tasks is empty: name tasks, or 'all'")
    return list(dict.fromkeys(names))
