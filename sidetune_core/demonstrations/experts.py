"""The experts that can be recorded: those of a task, and the policies of trained runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
import torch
from torch import Tensor

from sidetune_core.assembly.parts import open_tasks, read_parts, with_id
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.restore import choose_machine, read_resolved, restore
from sidetune_core.config.choice import Choice
from sidetune_core.config.resolve import ResolvedComponent, resolve_env
from sidetune_core.demonstrations.dataset import RUN
from sidetune_core.errors import OptionError, RunError, suggest
from sidetune_core.hashing import fingerprint
from sidetune_core.interfaces.tasks import Predict, Task, TaskStream
from sidetune_core.rl.distributions import check_policy
from sidetune_core.rl.masks import mask_invalid, mask_of
from sidetune_core.rl.memory import Memory
from sidetune_core.rl.rollout_task import RolloutTask
from sidetune_core.rl.vector_env import Expert, Observations, VectorEnv
from sidetune_core.seeding import derive_seed
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import open_run


@attrs.frozen(eq=False)
class ExpertSession:
    """An expert with the open env that it acts in."""

    env: ResolvedComponent
    seed: int
    """Of the env."""
    task: RolloutTask
    expert: Expert
    name: str
    """Of the expert, or `RUN`."""
    about: Mapping[str, str]
    """More about the expert for the manifest, such as the components of a run."""
    path: Path | None = None
    """The run folder or the policy file; None for an expert of the task."""
    trained: str = ""
    """The id of the run's task."""


@contextmanager
def open_offered(
    requested: Choice, task_id: str | None, name: str | None, seed: int
) -> Iterator[ExpertSession]:
    """An expert of a task, for a block; the env is closed after it.

    Args:
        requested: the env.
        task_id: of the task; None if the env has one task only.
        name: of the expert; None for the task's default.
        seed: of the env.

    Raises:
        OptionError: there is no such env, task or expert.
    """
    component = resolve_env(requested)
    stream: TaskStream = component.cls(component.config, seed)
    with closing(stream):
        task = choose_task(stream.tasks(), task_id, component.owner)
        if not task.experts:
            raise OptionError(
                f"{component.owner} has no expert for {task.title}. Record the policy of a trained run: "
                "sidetune record --expert RUNFOLDER"
            )
        if name is not None and name not in task.experts:
            raise OptionError(
                f"{component.owner} has no expert '{name}' for {task.title}, and '{name}' is not a run "
                f"folder.{suggest(name, task.experts)} Experts: {', '.join(task.experts)}"
            )
        selected = name or task.experts[0]
        yield ExpertSession(component, seed, task, task.expert(selected), selected, {})


@contextmanager
def open_trained(
    path: Path, task_id: str | None, trust_local_code: bool = False, title: str = ""
) -> Iterator[ExpertSession]:
    """The policy of a run after its latest task, for a block; the env is closed after it.

    Args:
        path: the run folder.
        task_id: of a task that the run has trained; None if there is one only.
        trust_local_code: import code that ``run.json`` names.
        title: of the task, which chooses among several without `task_id`: the last one with it, which
            `--extend` may have trained further.

    Raises:
        UntrustedCode: ``run.json`` names code, without `trust_local_code`.
        OptionError: there is no such task.
        RunError: there is no run, or it has completed no task yet.
    """
    folder = open_run(path)
    resolved = read_resolved(folder, trust_local_code)
    newest = checkpoint.latest(folder.checkpoints)
    if newest is None:
        raise RunError(
            f"{path} has completed no task yet, so there is no policy to record; its status is "
            f"{folder.status}"
        )
    saved = checkpoint.read(newest)
    parts = read_parts(folder, resolved, trust_local_code)
    with open_tasks(parts) as (stream, tasks):
        trained = [task for task in tasks if task.id in saved.done]
        same = [task for task in trained if task_id is None and task.title == title]
        task = choose_task(same[-1:] or trained, task_id, f"the run {path}")
        machine = choose_machine(resolved)
        learner = restore(resolved, stream, trained, saved.state, str(saved.path), machine)
        task.set_state(saved.tasks.get(task.id, {}))
        state_dict = learner.state_dict().items()
        weights = fingerprint({name: value for name, value in state_dict if isinstance(value, Tensor)})
        actions = "mode" if task.options.deterministic_eval else "sample"
        about = {"composition": str(resolved), "weights": weights, "actions": actions}
        policy = PolicyExpert(make_predict(learner, task, machine), task)
        trained_id = task.id
        part = next(part for part in parts if task.id in part.tasks)
        with_id(task, part.tasks[task.id])  # the recording is of the env's task, which may have another id
        env = part.resolved.components["env"]
        yield ExpertSession(env, resolved.seed, task, policy, RUN, about, path, trained_id)


def choose_task(tasks: Sequence[Task], task_id: str | None, owner: str) -> RolloutTask:
    """The task to record.

    Raises:
        OptionError: there is no such task, there are several to choose from, or it is not a rollout task.
    """
    titles = ", ".join(f"{task.id} ({task.title})" for task in tasks)
    if task_id is None and len(tasks) > 1:
        raise OptionError(f"{owner} has several tasks; choose the one to record with --task. Tasks: {titles}")
    selected = next((task for task in tasks if task_id in (None, task.id)), None)
    if selected is None:
        raise OptionError(f"{owner} has no task '{task_id}'. Tasks: {titles}")
    if not isinstance(selected, RolloutTask):
        raise OptionError(f"{owner} has no rollout tasks, so there is nothing to record")
    return selected


class PolicyExpert:
    """A learner's policy for a task, with the actions of the task's evaluations (see
    `RolloutTask.choose_actions`).

    Args:
        predict: the learner's output.
        task: the task to act in.
    """

    def __init__(self, predict: Predict, task: RolloutTask) -> None:
        self._predict, self._task = predict, task
        self._generator = torch.Generator()
        self._memory = Memory(task.options.ppo.memory, 1)

    def copy(self) -> PolicyExpert:
        """Another one with the same policy."""
        return PolicyExpert(self._predict, self._task)

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        """See `Expert`."""
        self._memory = Memory(self._task.options.ppo.memory, 1)
        self._generator.manual_seed(derive_seed(seed, "actions"))

    def act(self, observations: Observations) -> Tensor:
        """See `Expert`.

        Raises:
            Diverged: the policy's outputs are not finite.
        """
        output = self._predict(self._memory.context_of(self._task.prepare(observations))).cpu()
        self._memory.update(output, self._task.policy)
        parameters = output[:, : self._task.policy.size]
        when = "an action of the expert"
        check_policy(self._task.policy, parameters, self._task.title, when)
        mask = mask_of(observations, self._task.policy)
        parameters = mask_invalid(self._task.policy, parameters, mask, self._task.title, when)
        return self._task.choose_actions(parameters, self._generator)
