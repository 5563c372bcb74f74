"""Vectorised environments, their steps, and experts that act in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sidetune_core.errors import RolloutError
from sidetune_core.rl.former_names import former_fields

Image = NDArray[np.uint8]
"""(H, W, 3)"""

Observations = Mapping[str, Tensor]
"""(E, *shape) by input name, for E environments: float32, or uint8 for images."""


@former_fields(final="final_observations", measures="metrics")
@attrs.frozen(eq=False)
class Step:
    """The result of one step of E environments, with automatic resets in the same step.

    It is Gymnasium's ``AutoresetMode.SAME_STEP``: where an episode ends, `observations` has the first
    observation of the next episode, and `final_observations` the last one of the episode that ended.
    """

    observations: Observations
    """(E, *shape) by input name: what the policy acts on next."""
    rewards: Tensor
    """(E,) float32"""
    terminated: Tensor
    """(E,) bool: the episode ended in a terminal state, whose value is zero."""
    truncated: Tensor
    """(E,) bool: the episode was cut off, for example by a time limit."""
    success: Tensor
    """(E,) bool, valid where an episode has ended."""
    final_observations: Observations
    """(n, *shape) by input name, of the n episodes that ended, in the order of the environments; empty if
    none ended."""
    metrics: Mapping[str, Tensor] = attrs.field(factory=dict)
    """(E,) by name, valid where an episode has ended: further metrics of the environment, such as SPL."""

    @cached_property
    def ended(self) -> Tensor:
        """(E,) bool: terminated or truncated."""
        return self.terminated | self.truncated


class VectorEnv(Protocol):
    """E environments of one kind that are stepped together."""

    def reset(self, seed: int) -> Observations:
        """Begin an episode in each environment.

        Everything after it is a function of the seed and the actions.
        """

    def step(self, actions: Tensor) -> Step:
        """Take actions (E, width) in the format of the task's policy."""

    def close(self) -> None:
        """Release processes, simulators and files."""


@runtime_checkable
class RenderedVectorEnv(VectorEnv, Protocol):
    """E environments that keep frames to show."""

    @property
    def frames_per_second(self) -> float:
        """Of a video in real time."""

    def take_frames(self) -> Sequence[Sequence[Image]]:
        """The frames of each environment since the previous call, or its reset: one for each step and each
        reset, all of one size."""


class Expert(Protocol):
    """Chooses the actions of a demonstration; it may read the internal state of the environment."""

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        """An episode has begun in `vector_env`, which holds one environment.

        `seed` seeds everything random in the expert.
        """

    def act(self, observations: Observations) -> Tensor | None:
        """The next action, (1, width) in the format of the task's policy; None to abort the episode, which is
        not recorded then."""


@runtime_checkable
class FollowsActions(Protocol):
    """An expert that plans ahead from its own actions. Where another action is taken, as in DAgger, it is
    notified."""

    def took(self, action: Tensor) -> None:
        """The action (1, width) that is taken after the latest `Expert.act`, in place of the expert's."""


def check_finite(step: Step, title: str, when: str) -> None:
    """Check that all observations and rewards of a step are finite.

    Args:
        step: the step to check.
        title: of the task, for the message.
        when: which step it is, for the message: ``step 3 of training``.

    Raises:
        RolloutError: an observation or a reward is NaN or infinite.
    """
    for name, value in (("", step.rewards), *step.observations.items()):
        if value.is_floating_point() and not np.isfinite(value.numpy()).all():
            env = int((~value.isfinite()).reshape(len(value), -1).any(1).nonzero()[0])
            what = f"observation '{name}'" if name else "reward"
            raise RolloutError(f"{title}: the {what} of environment {env} is not finite ({when})")
