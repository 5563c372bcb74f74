"""Who is recorded: an expert that a task offers, or the policy of a trained run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
import torch
from torch import Tensor

from sidetune_core.assembly.build import build_learner, build_stream, without_weights
from sidetune_core.assembly.predict import make_predict
from sidetune_core.config.resolve import ResolvedComponent, resolve, resolve_env
from sidetune_core.config.spec import Choice, from_values
from sidetune_core.errors import OptionError, RunError, suggest
from sidetune_core.hashing import fingerprint
from sidetune_core.interfaces.tasks import Predict, Task, TaskStream
from sidetune_core.rl.rollout_task import RolloutTask
from sidetune_core.rl.vector_env import Expert, Observations, VectorEnv
from sidetune_core.seeding import derive_seed, seeded
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import open_run
from sidetune_core.system import device

RUN = "run"
"""What the card calls the policy of a trained run."""


@attrs.frozen(eq=False)
class ExpertSession:
    """Who is recorded, and where."""

    env: ResolvedComponent
    seed: int
    """Of the env."""
    task: RolloutTask
    expert: Expert
    name: str
    """Of the expert, or `RUN`."""
    about: Mapping[str, str]
    """What else the card says of it, as a run's composition."""


@contextmanager
def open_offered(asked: Choice, task_id: str | None, name: str | None, seed: int) -> Iterator[ExpertSession]:
    """An expert that a task offers; its env is closed after the block.

    Args:
        asked: the env.
        task_id: of the task; None where there is one only.
        name: of the expert; None for the usual one of the task.
        seed: of the env.

    Raises:
        OptionError: the env, the task or the expert is not there.
    """
    component = resolve_env(asked)
    stream: TaskStream = component.cls(component.config, seed)
    with closing(stream):
        task = _choose(stream.tasks(), task_id, component.owner)
        known = task.experts
        if not known:
            raise OptionError(
                f"{component.owner} offers no expert for {task.title}. Record a trained policy: sidetune collect --expert RUNFOLDER"
            )
        if name is not None and name not in known:
            raise OptionError(
                f"{component.owner} has no expert '{name}' for {task.title}, and there is no run in a folder of that name."
                f"{suggest(name, known)} It has: {', '.join(known)}"
            )
        chosen = name or known[0]
        yield ExpertSession(component, seed, task, task.expert(chosen), chosen, {})


@contextmanager
def open_trained(path: Path, task_id: str | None) -> Iterator[ExpertSession]:
    """The policy of a run, as it was after its latest task; its env is closed after the block.

    Args:
        path: the run folder.
        task_id: of a task that the run has learnt; None where there is one only.

    Raises:
        OptionError: the task is not there.
        RunError: there is no run, or it has learnt no task yet.
    """
    folder = open_run(path)
    about = folder.read_json("run.json")
    composition = resolve(from_values(about.get("resolved"), str(folder.path / "run.json"), recorded=True))
    newest = checkpoint.latest(folder.checkpoints)
    if newest is None:
        raise RunError(
            f"{path} has learnt no task yet, so its policy cannot be recorded; it is {folder.status}"
        )
    found = checkpoint.read(newest)
    component = composition.components["env"]
    with closing(build_stream(composition)) as stream:
        tasks = stream.tasks()
        learnt = [one for one in tasks if one.id in found.done]
        task = _choose(learnt, task_id, f"the run {path}")
        machine = device.choose(composition.device)
        blank = {
            slot: attrs.evolve(one, config=without_weights(one))
            for slot, one in composition.components.items()
        }
        learner = build_learner(
            attrs.evolve(composition, components=blank), stream
        )  # the checkpoint has all that they need
        for one in learnt:
            with seeded(composition.seed, "start", one.id):
                learner.start(one)
        machine.place(learner)
        found.load(learner)
        learner.requires_grad_(False).eval()
        task.set_state(found.tasks.get(task.id, {}))
        weights = fingerprint(
            {name: value for name, value in learner.state_dict().items() if isinstance(value, Tensor)}
        )
        told = {"composition": str(composition), "weights": weights, "actions": task.options.evaluate}
        yield ExpertSession(
            component,
            composition.seed,
            task,
            PolicyExpert(make_predict(learner, task, machine), task),
            RUN,
            told,
        )


def _choose(tasks: Sequence[Task], task_id: str | None, owner: str) -> RolloutTask:
    """The task that is meant.

    Raises:
        OptionError: there is none, or more than one, or nobody acts in it.
    """
    titles = ", ".join(f"{task.id} ({task.title})" for task in tasks)
    if task_id is None and len(tasks) > 1:
        raise OptionError(
            f"{owner} has several tasks, and a recording is of one: name it with --task. There are: {titles}"
        )
    found = next((task for task in tasks if task_id in (None, task.id)), None)
    if found is None:
        raise OptionError(f"{owner} has no task '{task_id}'. There are: {titles}")
    if not isinstance(found, RolloutTask):
        raise OptionError(
            f"nobody acts in the tasks of {owner}, so there is nothing to record; choose an env such as gym"
        )
    return found


class PolicyExpert:
    """The policy that a learner has for a task, which acts as in the task's evaluations (see `RolloutOptions.evaluate`).

    Args:
        act: the learner's output.
        task: in which it acts.
    """

    def __init__(self, predict: Predict, task: RolloutTask) -> None:
        self._predict, self._task = predict, task
        self._generator = torch.Generator()

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        """See `Expert`."""
        self._generator.manual_seed(derive_seed(seed, "actions"))

    def act(self, observations: Observations) -> Tensor:
        """See `Expert`."""
        parameters = self._predict(self._task.prepare(observations)).cpu()[:, :-1]
        policy = self._task.policy
        return (
            policy.mode(parameters)
            if self._task.options.evaluate == "mode"
            else policy.sample(parameters, self._generator)
        )
