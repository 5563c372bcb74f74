"""Episodes of a policy whose steps an expert labels, for DAgger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.errors import RunError
from sidetune_core.interfaces.tasks import Predict
from sidetune_core.rl.distributions import check_policy
from sidetune_core.rl.masks import mask_invalid, mask_of
from sidetune_core.rl.rollout_task import RolloutTask
from sidetune_core.rl.vector_env import Expert, FollowsActions, Observations, VectorEnv, check_finite
from sidetune_core.seeding import derive_seed

MakeExpert = Callable[[], Expert]
"""A new expert for one environment."""


@attrs.frozen(eq=False)
class Labelled:
    """The T steps of a policy's episodes, with the actions of an expert."""

    observations: Observations
    """(T, *shape) by input name: what the policy acted on."""
    actions: Tensor
    """(T, width): what the expert would have done."""
    queries: int
    """Number of times that the expert was asked: T, and once for each episode that it aborted."""
    aborted: int
    """Number of episodes that end before their last step, because the expert did not answer or raised."""

    def to_state(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return attrs.asdict(self, recurse=False) | {"observations": dict(self.observations)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Labelled:
        """The inverse of `to_state`."""
        return cls(**state)


def label_episodes(
    task: RolloutTask, predict: Predict, make_expert: MakeExpert, episodes: int, seed: int
) -> Labelled:
    """Play episodes with a policy, under the options of the task's evaluations, and label each step.

    Args:
        task: to play.
        predict: outputs of the learner, with the value as the last column.
        make_expert: makes an expert, for one environment each.
        episodes: their number; they are played side by side.
        seed: of the episodes, of sampled actions and of the experts.

    Raises:
        Diverged: an output of the policy is not finite.
        RunError: an environment failed, or the expert labelled no step.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "actions"))
    frames: list[Observations] = []
    labels: list[Tensor] = []
    queries, reasons = 0, list[str]()
    with ExitStack() as stack:
        players = [
            _Player(stack.enter_context(closing(task.make_vector_env(1))), make_expert(), seed, number)
            for number in range(episodes)
        ]
        step = 0
        while players:
            step += 1
            queries += len(players)
            reasons.extend(player.ask() for player in players)
            players = [player for player in players if player.label is not None]
            if not players:
                break
            observations = {
                name: torch.cat([player.observations[name] for player in players])
                for name in players[0].observations
            }
            frames.append(observations)
            labels.extend(player.label for player in players if player.label is not None)
            parameters = predict(task.prepare(observations)).cpu()[:, : task.policy.size]
            when = f"step {step} of labelled episodes"
            check_policy(task.policy, parameters, task.title, when)
            mask = mask_of(observations, task.policy)
            parameters = mask_invalid(task.policy, parameters, mask, task.title, when)
            actions = torch.split(task.choose_actions(parameters, generator), 1)
            players = [
                player
                for player, action in zip(players, actions, strict=True)
                if not player.step(action, task.title, when)
            ]
    failures = [reason for reason in reasons if reason]
    if not frames:
        raise RunError(f"{task.title}: the expert labelled no step of {episodes} episodes: {failures[0]}")
    return Labelled(
        observations={name: torch.cat([frame[name] for frame in frames]) for name in frames[0]},
        actions=torch.cat(labels),
        queries=queries,
        aborted=len(failures),
    )


class _Player:
    """One environment, the expert that observes it, and the present step of its episode."""

    def __init__(self, vector_env: VectorEnv, expert: Expert, seed: int, number: int) -> None:
        self._vector_env, self._expert = vector_env, expert
        episode_seed = derive_seed(seed, "episode", number) % 2**31
        self.observations = _copied(vector_env.reset(episode_seed))
        self.label: Tensor | None = None
        expert.begin(vector_env, episode_seed)

    def ask(self) -> str:
        """Set `label`, to None if the expert aborts the episode; returns why it did."""
        try:
            self.label = self._expert.act(self.observations)
        except Exception as error:  # an expert may raise anything where it would not have gone itself
            self.label = None
            return f"it raised {type(error).__name__}: {error}".splitlines()[0]
        return "it aborted the episode" if self.label is None else ""

    def step(self, action: Tensor, title: str, when: str) -> bool:
        """Take an action; returns whether the episode has ended."""
        if isinstance(self._expert, FollowsActions):
            self._expert.took(action)
        step = self._vector_env.step(action)
        check_finite(step, title, when)
        self.observations = _copied(step.observations)
        return bool(step.ended)


def _copied(observations: Observations) -> Observations:
    return {name: value.clone() for name, value in observations.items()}  # buffers are reused
