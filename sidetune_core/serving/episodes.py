"""Playing the policy of a run or an adapter in the environments of its env."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.assembly.build import build_stream
from sidetune_core.assembly.cards import CardTask, make_handler, read_cards
from sidetune_core.assembly.parts import read_parts, with_id
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.restore import choose_machine, read_resolved, restore
from sidetune_core.config.choice import Choice
from sidetune_core.config.differences import merged
from sidetune_core.config.options import unstructure
from sidetune_core.config.resolve import ResolvedRun, resolve_env
from sidetune_core.errors import OptionError, RunError, suggest
from sidetune_core.interfaces.capabilities import set_task_state
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.rl.episode_stats import Episode
from sidetune_core.rl.rollout_task import EVALUATION_SEED, MAX_EVAL_STEPS, Playable, ShowFrames
from sidetune_core.serving.adapter_folder import is_adapter
from sidetune_core.serving.source import Trained
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import open_run

COMPARED = ("inputs", "policy")
"""Values of a card that options of the env may not change."""

UNCOMPARED = ("evaluation", "deterministic_eval", "normalise_observations", "observations", "actions")
"""Values of an adapter's card that may differ: the state of the task has the statistics, and spaces of the
same inputs and policies differ in their bounds only."""


@attrs.frozen(eq=False)
class Player:
    """A policy with the open env that it acts in."""

    task: Playable
    id: str
    title: str
    predict: Predict
    max_steps: int | None
    """Bound of an episode unless another is requested; None where the environments have their own."""

    def play(
        self,
        episodes: int,
        seed: int = EVALUATION_SEED,
        deterministic: bool | None = None,
        max_steps: int | None = None,
        show: ShowFrames | None = None,
    ) -> Iterator[Episode]:
        """See `RolloutTask.play`."""
        return self.task.play(
            self.predict,
            episodes,
            seed=seed,
            deterministic=deterministic,
            max_steps=self.max_steps if max_steps is None else max_steps,
            show=show,
        )


@contextmanager
def open_player(
    path: Path,
    task_id: str | None = None,
    overrides: Callable[[str], Mapping[str, Any]] | None = None,
    trust_local_code: bool = False,
) -> Iterator[Player]:
    """The policy of a run after its latest task, or of an adapter, for a block; the env is closed after it.

    Args:
        path: a run folder or an adapter.
        task_id: of a task that has been trained; None if there is one only.
        overrides: gives the options of the env that differ from those of the run, by the env's name.
        trust_local_code: import code that the folder names.

    Raises:
        UntrustedCode: the folder names code, without `trust_local_code`.
        OptionError: there is no such task, it has no policy, or the options change what the policy sees or
            does.
        RunError: there is no run, or it has completed no task yet.
    """
    trained = _read(path, trust_local_code)
    selected = _choose(trained, task_id, path)
    of_run, env_ids = _env_of(trained, selected, path, trust_local_code)
    resolved = _with_env(of_run, overrides)
    with closing(build_stream(resolved)) as stream:
        of_env = {task.id: task for task in stream.tasks()}
        own = {id: with_id(of_env[env_id], id) for id, env_id in env_ids.items() if env_id in of_env}
        task = own.get(selected)
        if task is None:
            raise OptionError(
                f"the env has no task '{selected}' with these options; it has {', '.join(of_env)}"
            )
        if not isinstance(task, Playable):
            raise OptionError(
                f"task '{selected}' ({task.title}) of {path} has no policy, so there are no episodes to play"
            )
        _check_same(task, task.inputs, trained.cards.get(selected), path)
        tasks = [own.get(name) or _from_card(trained, name, trust_local_code) for name in trained.tasks]
        machine = choose_machine(resolved)
        learner = restore(resolved, stream, tasks, trained.state, trained.source, machine)
        set_task_state(task, trained.task_states.get(selected, {}))
        max_steps = MAX_EVAL_STEPS if task.time_limit is None else None
        yield Player(task, selected, task.title, make_predict(learner, task, machine), max_steps)


def _read(path: Path, trust_local_code: bool) -> Trained:
    """All tasks of a run or an adapter. Runs of earlier versions have no cards, which the env replaces here.

    Raises:
        RunError: there is no run, or it has completed no task yet.
    """
    if is_adapter(path):
        adapter = import_module("sidetune_core.serving.adapter")
        trained: Trained = adapter.read_adapter(path, trust_local_code=trust_local_code)
        return attrs.evolve(trained, tasks=tuple(trained.cards))
    folder = open_run(path)
    resolved = read_resolved(folder, trust_local_code)
    newest = checkpoint.latest(folder.checkpoints)
    if newest is None:
        raise RunError(
            f"{path} has completed no task yet, so there is no policy to play; its status is {folder.status}"
        )
    saved = checkpoint.read(newest)
    try:
        cards: Mapping[str, TaskCard] = read_cards(folder, saved.done)
    except RunError:
        cards = {}
    return Trained(resolved, cards, saved.state, saved.tasks, str(path), tuple(saved.done))


def _env_of(
    trained: Trained, selected: str, path: Path, trust_local_code: bool
) -> tuple[ResolvedRun, Mapping[str, str]]:
    """The run with the env of a task, and the ids in that env of its tasks, by their ids in the run; a run
    that was extended has several envs."""
    if is_adapter(path):
        return trained.resolved, {id: id for id in trained.tasks}
    parts = read_parts(open_run(path), trained.resolved, trust_local_code)
    part = next(part for part in parts if selected in part.tasks)
    return part.resolved, part.tasks


def _choose(trained: Trained, task_id: str | None, path: Path) -> str:
    listed = ", ".join(trained.tasks)
    if task_id is None:
        if len(trained.tasks) > 1:
            raise OptionError(f"{path} has several tasks; choose one with --task. Tasks: {listed}")
        return trained.tasks[0]
    if task_id not in trained.tasks:
        hint = suggest(task_id, trained.tasks)
        raise OptionError(f"{path} has no task '{task_id}'.{hint} Tasks: {listed}")
    return task_id


def _with_env(resolved: ResolvedRun, overrides: Callable[[str], Mapping[str, Any]] | None) -> ResolvedRun:
    """The run with other options of its env.

    Raises:
        OptionError: one is not an option of the env.
    """
    if overrides is None:
        return resolved
    env = resolved.components["env"]
    changed = resolve_env(Choice(env.choice, merged(unstructure(env.config), overrides(env.choice))))
    return attrs.evolve(resolved, components={**resolved.components, "env": changed})


def _check_same(task: Playable, inputs: InputShapes, card: TaskCard | None, path: Path) -> None:
    """Check that the policy has the inputs and actions of the env. An adapter has no record of the env's
    options, so that all of them that the policy depends on are compared.

    Raises:
        OptionError: they differ.
    """
    if card is None:
        return
    present = {**task.card(), "inputs": {name: [*shape] for name, shape in inputs.items()}}
    recorded = {**card.values, "inputs": {name: [*shape] for name, shape in card.inputs.items()}}
    of_adapter = is_adapter(path)
    compared = [name for name in recorded if name not in UNCOMPARED] if of_adapter else COMPARED
    for name in compared:
        if name in recorded and present.get(name) != recorded[name]:
            hint = ". An adapter does not record the options of its env: pass those of its run, --env.*"
            raise OptionError(
                f"the policy of {path} was trained with {name} {recorded[name]}, and with these options the "
                f"env has {present.get(name)}{hint if of_adapter else ''}"
            )


def _from_card(trained: Trained, name: str, trust_local_code: bool) -> Task:
    """A task that the env no longer has with the given options.

    Raises:
        OptionError: it has no card, as in a run of an earlier version.
    """
    if name not in trained.cards:
        raise OptionError(f"with these options the env has no task '{name}', which the run was trained on")
    card = trained.cards[name]
    return CardTask(card, make_handler(card, Path(trained.source), trust_local_code))
