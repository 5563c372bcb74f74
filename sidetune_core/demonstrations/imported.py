"""Trajectories of other tools as demonstrations: converted by the env in which the policy is evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from sidetune_core.config.nested_env import resolve_settings
from sidetune_core.config.options import unstructure
from sidetune_core.config.resolve import ResolvedComponent
from sidetune_core.demonstrations.dataset import Trajectories
from sidetune_core.demonstrations.raw import RawEpisode
from sidetune_core.demonstrations.raw_files import RawFile, open_raw
from sidetune_core.errors import DataError, InputError, OptionError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import HasHandler
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.tasks import TaskStream
from sidetune_core.rl.policy_handler import Frame, PolicyHandler
from sidetune_core.rl.rollout_task import RolloutTask

GYM = "gym"
"""Env of Gymnasium ids."""


@attrs.define(eq=False)
class ImportedDemonstrations:
    """The trajectories of a file, opened by `open_file`.

    They have the members of `Demonstrations`. Success and seeds are unknown (empty columns), and so are
    rewards (NaN) and final observations where the file has none.
    """

    folder: Path
    """The file, or the folder of a data set."""
    raw: RawFile
    component: ResolvedComponent
    """The env in which the policy is evaluated."""
    inputs: InputShapes
    seed: int

    @property
    def recorded(self) -> int:
        """Number of trajectories."""
        return self.raw.episodes

    @property
    def expert(self) -> str | None:
        """Files name none."""
        return None

    @cached_property
    def env(self) -> Mapping[str, Any]:
        """Name, options and seed of the env, as JSON values."""
        values = {
            "name": self.component.choice,
            "options": unstructure(self.component.config),
            "seed": self.seed,
        }
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    def open_stream(self, trust_local_code: bool = False) -> TaskStream:
        """The env; the caller closes it."""
        stream: TaskStream = self.component.cls(self.component.config, self.seed)
        stream.trust_local_code = trust_local_code
        return stream

    def task(self, stream: TaskStream) -> RolloutTask:
        """The only task of `open_stream`.

        Raises:
            OptionError: it has several, or collects no experience.
        """
        tasks = stream.tasks()
        if len(tasks) != 1 or not isinstance(tasks[0], RolloutTask):
            titles = ", ".join(task.title for task in tasks)
            raise OptionError(
                f"the trajectories of {self.folder} are of one environment, and {self.component.owner} has "
                f"the tasks {titles}: choose one in --env.of-options"
            )
        return tasks[0]

    def read(self, first: int, count: int) -> Trajectories:
        """See `Demonstrations.read`.

        Raises:
            DataError: the observations or actions are not those of the environment.
        """
        if first + count > self.recorded:
            raise DataError(
                f"{self.folder} has {self.recorded} trajectories, and {first + count} were requested"
            )
        stream = self.open_stream(trust_local_code=True)  # it was resolved, and its code trusted, before
        try:
            task = self.task(stream)
            handler = make_policy_handler(self.component, task)
            episodes = [
                self._converted(episode, handler, task.title) for episode in self.raw.read(first, count)
            ]
        finally:
            stream.close()
        has_final = all(episode.final for episode in episodes)
        return Trajectories.concatenated(
            [episode if has_final else attrs.evolve(episode, final={}) for episode in episodes]
        )

    def _converted(self, episode: RawEpisode, handler: PolicyHandler, title: str) -> Trajectories:
        try:
            frames = _stacked(handler, episode)
            actions = handler.encode_actions(episode.actions)
        except InputError as error:
            raise DataError(
                f"{self.folder}, {episode.name}: {error}. The environment is {title}; choose another one by "
                "--env.of-options ids=ID"
            ) from error
        steps = episode.length
        rewards = np.full(steps, np.nan) if episode.rewards is None else episode.rewards
        ends = torch.zeros(2, steps, dtype=torch.bool)
        ends[0, -1], ends[1, -1] = episode.terminated, episode.truncated
        return Trajectories(
            observations=_columns(frames[:steps]),
            actions=actions,
            rewards=torch.from_numpy(np.asarray(rewards, np.float32)),
            terminated=ends[0],
            truncated=ends[1],
            final=_columns(frames[steps:]) if episode.has_final else {},
            lengths=torch.tensor([steps]),
            success=torch.zeros(0, dtype=torch.bool),
            seeds=torch.zeros(0, dtype=torch.int64),
        )


def make_policy_handler(component: ResolvedComponent, task: RolloutTask) -> PolicyHandler:
    """The handler of an env's task, which converts observations and actions of the plain environment."""
    card = TaskCard(
        id=task.id,
        title=task.title,
        env=component.choice,
        inputs={name: tuple(shape) for name, shape in task.inputs.items()},
        outputs=task.outputs,
        metric=task.metric,
        head="handler",
        values=task.card(),
    )
    handler = component.cls.handler(card) if issubclass(component.cls, HasHandler) else PolicyHandler(card)
    assert isinstance(handler, PolicyHandler)
    return handler


def open_file(
    path: Path, name: str, settings: Sequence[str], seed: int, info: Callable[[str], None]
) -> ImportedDemonstrations:
    """The trajectories of a file; its first episode is converted to check it.

    Args:
        path: see `open_raw`.
        name: of the env in which the policy is evaluated.
        settings: its options, as ``NAME=VALUE``. A data set of Minari names its environment itself.
        seed: of the env.
        info: prints a line.

    Raises:
        DataError: the file cannot be read, or is not of this environment.
        OptionError: the environment is not chosen, or cannot be.
    """
    raw = open_raw(path)
    if not raw.episodes:
        raise DataError(f"{path} has no episodes")
    recorded: dict[str, Any] = {}
    if raw.env is not None and name.rpartition("/")[2] == GYM:
        recorded = {"ids": [raw.env.id], "arguments": json.dumps(dict(raw.env.arguments))}
        if raw.env.max_episode_steps is not None:
            recorded["time_limit"] = raw.env.max_episode_steps
        if chosen := {"ids", "arguments"} & {setting.partition("=")[0].strip() for setting in settings}:
            recorded = {} if "ids" in chosen else recorded
    elif not settings and name.rpartition("/")[2] == GYM:
        raise OptionError(
            f"{path} does not name its environment: pass its Gymnasium id, --env.of-options ids=CartPole-v1"
        )
    component = resolve_settings(name, settings, recorded)
    if recorded and not settings:
        info(f"{path}: recorded in {recorded['ids'][0]}")
    stream: TaskStream = component.cls(component.config, seed)
    inputs = stream.inputs
    stream.close()
    return ImportedDemonstrations(path, raw, component, inputs, seed)


def _stacked(handler: PolicyHandler, episode: RawEpisode) -> list[Frame]:
    """The inputs of each step, and of the observation after the last one if it is there."""
    count = episode.length + episode.has_final
    observations = [episode.observation(index) for index in range(count)]
    try:
        frames = [handler.observe(observation) for observation in observations]
    except InputError:
        if not isinstance(episode.observations, Mapping) or len(episode.observations) != 1:
            raise
        (name,) = episode.observations  # a group with the only array
        frames = [handler.observe(observation[name]) for observation in observations]
    if handler.frames == 1:
        return frames
    history = [handler.padding(frames[0])] * (handler.frames - 1) + frames
    return [handler.stacked([*islice(history, k, k + handler.frames)]) for k in range(count)]


def _columns(frames: Sequence[Frame]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.stack([frame[name] for frame in frames])) for name in frames[0]}
