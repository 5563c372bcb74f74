"""Policies in use: actions for observations of an environment, without the environments of training."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from sidetune_core.errors import InputError, SidetuneError
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.rl.memory import STATE
from sidetune_core.rl.policy_handler import ActionPrediction, Frame, PolicyHandler
from sidetune_core.serving.predict import WRONG

if TYPE_CHECKING:
    from sidetune_core.serving.model import Model


def act(
    model: Model,
    observation: Any,
    task: str | None = None,
    deterministic: bool | None = None,
    generator: torch.Generator | None = None,
    action_mask: Any = None,
) -> Any:
    """The action for an observation, or a list of actions for a list of observations.

    Args:
        model: has the policy.
        observation: as the plain environment gives it.
        task: the task; None if the model has one task only.
        deterministic: take the most likely action, or sample one; None for what the run evaluated.
        generator: of sampled actions, on the CPU; None for one with a seed of its own.
        action_mask: see `Actor.act`.

    Raises:
        InputError: there is no such task, it has no policy or one that needs an `Actor`, or the observation
            is not one of its environment.
    """
    actor = Actor(model, task, deterministic)
    if generator is not None:
        actor.generator = generator
    if actor.handler.frames > 1:
        raise InputError(
            f"task '{actor.task}' sees the latest {actor.handler.frames} observations at once: make an actor "
            f"that remembers them, actor = model.actor('{actor.task}'), and call actor.reset() at the start "
            "of an episode and actor.act(observation) in each step"
        )
    if actor.handler.values.memory:
        raise InputError(
            f"the policy of task '{actor.task}' is recurrent: make an actor that keeps its state, actor = "
            f"model.actor('{actor.task}'), and call actor.reset() at the start of an episode and "
            "actor.act(observation) in each step"
        )
    return actor.act(observation, action_mask)


class Actor:
    """A policy of a model in one environment, or in several that are stepped together.

    It remembers the latest observations where the policy sees several at once, and the state of a recurrent
    policy, and draws sampled actions from a generator of its own. Threads need an actor each.

    Args:
        model: has the policy.
        task: the task; None if the model has one task only.
        deterministic: take the most likely action, or sample one; None for what the run evaluated.
        seed: of sampled actions; None for one that differs each time.

    Raises:
        InputError: there is no such task, or it has no policy.
    """

    def __init__(
        self,
        model: Model,
        task: str | None = None,
        deterministic: bool | None = None,
        seed: int | None = None,
    ) -> None:
        handler = model.handler(task)
        self.task = task if task is not None else model.tasks[0]
        if not isinstance(handler, PolicyHandler):
            raise InputError(
                f"task '{self.task}' has no policy, so it does not act: call "
                f"model.predict(inputs, '{self.task}')"
            )
        self.handler, self._model = handler, model
        self.deterministic = handler.values.deterministic_eval if deterministic is None else deterministic
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)
        self._memory: dict[int, deque[Frame]] = {}
        self._states: dict[int, Tensor] = {}
        self._count: int | None = None

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Begin an episode: forget the observations of the previous one.

        Args:
            rows: indices of the environments in which an episode begins; None for all.
        """
        if rows is None:
            self._memory, self._states, self._count = {}, {}, None
        for row in rows or ():
            self._memory.pop(row, None)
            self._states.pop(row, None)

    def act(self, observation: Any, action_mask: Any = None) -> Any:
        """The action in the format of the environment, such as an integer; for a list of observations, one of
        each environment, a list of actions.

        Args:
            observation: as the plain environment gives it.
            action_mask: an array that is not zero where an action is valid, such as
                ``info["action_mask"]``; a list of them for a list of observations. None if all actions are
                valid, or the observation has it.

        Raises:
            InputError: an observation is not one of the environment, or it masks actions and there is no
                mask.
            Diverged: an output of the network is not finite.
        """
        decided = self.predict(observation, action_mask)
        return [one.action for one in decided] if isinstance(decided, list) else decided.action

    def predict(self, observation: Any, action_mask: Any = None) -> ActionPrediction | list[ActionPrediction]:
        """The same with the probability of the action and the value of the observation."""
        several = self.handler.is_batch(observation)
        observations = observation if several else [observation]
        try:
            inputs = self.handler.inputs(self._with_memory(observations))
        except SidetuneError:
            raise
        except WRONG as error:
            raise InputError(
                f"task '{self.task}' cannot use the observation: {type(error).__name__}: {error}"
            ) from error
        masks = self._masks(observations, action_mask, several)
        output = self._model.outputs(self._with_states(inputs), self.task).cpu()
        self._keep_states(output)
        decided = self.handler.decide(output, None if self.deterministic else self.generator, masks)
        return decided if several else decided[0]

    def _with_states(self, inputs: Inputs) -> Inputs:
        """Inputs (B, ...) with the state of a recurrent policy in each environment."""
        size, count = self.handler.values.memory, len(next(iter(inputs.values())))
        if not size:
            return inputs
        states = [self._states.get(row, torch.zeros(size)) for row in range(count)]
        return attrs.evolve(inputs, context={STATE: torch.stack(states)})

    def _keep_states(self, output: Tensor) -> None:
        size = self.handler.values.memory
        if size:
            columns = output[:, self.handler.policy.size :][:, :size]
            self._states = dict(enumerate(columns.clone()))

    def _masks(self, observations: Sequence[Any], action_mask: Any, several: bool) -> Sequence[Any] | None:
        """A mask of the actions for each observation.

        Raises:
            InputError: the environment masks actions, and a mask is missing.
        """
        if action_mask is not None:
            masks = list(action_mask) if several else [action_mask]
        elif not self.handler.masks_actions:
            return None
        else:
            masks = [self.handler.mask(observation) for observation in observations]
        if len(masks) != len(observations) or any(mask is None for mask in masks):
            raise InputError(
                f"the environment of task '{self.task}' says which actions are valid: pass "
                "action_mask=info['action_mask'] or action_mask=env.action_masks(), one for each observation"
            )
        return masks

    def _with_memory(self, observations: Sequence[Any]) -> list[Frame]:
        """Observations as inputs: each together with those before it.

        Raises:
            InputError: there are none, or another number than before.
        """
        if not observations:
            raise InputError("there are no observations to act on")
        new = [self.handler.observe(observation) for observation in observations]
        if self.handler.frames == 1 and not self.handler.values.memory:
            return [self.handler.stacked([frame]) for frame in new]
        if self._count not in (None, len(new)):
            raise InputError(
                f"the actor remembers {self._count} environments, and there are {len(new)} observations: "
                "call actor.reset() first"
            )
        self._count = len(new)
        if self.handler.frames == 1:
            return [self.handler.stacked([frame]) for frame in new]
        return [self._remembered(row, frame) for row, frame in enumerate(new)]

    def _remembered(self, row: int, frame: Frame) -> Frame:
        count = self.handler.frames
        if row not in self._memory:
            self._memory[row] = deque([self.handler.padding(frame)] * count, maxlen=count)
        self._memory[row].append(frame)
        return self.handler.stacked([*self._memory[row]])
