"""The worlds that a policy acts in, and those who know what to do there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

import attrs
import numpy as np
from torch import Tensor

from sidetune_core.errors import RunError

Observations = Mapping[str, Tensor]
"""By input name, (E, *shape) for E environments: float32, or uint8 where that is how it comes."""


@attrs.frozen(eq=False)
class Step:
    """What a step of E environments gives. Where an episode ends, the next one begins at once."""

    observations: Observations
    """Of what comes next: where an episode has ended, the first ones of the new episode."""
    rewards: Tensor
    """(E,) float32"""
    terminated: Tensor
    """(E,) bool: the episode has ended in a state whose value is zero."""
    truncated: Tensor
    """(E,) bool: the episode was cut off, as by a time limit."""
    success: Tensor
    """(E,) bool, told where an episode has ended."""
    final: Observations
    """The last observations of the episodes that have ended, (n, *shape) in the order of the environments; empty if none has."""
    measures: Mapping[str, Tensor] = attrs.field(factory=dict)
    """(E,) by name, told where an episode has ended: what else the environment measures of it, such as SPL."""

    @cached_property
    def ended(self) -> Tensor:
        """(E,) bool"""
        return self.terminated | self.truncated


class VectorEnv(Protocol):
    """E environments of one kind, side by side."""

    def reset(self, seed: int) -> Observations:
        """Begin an episode in each; all that comes after is a function of the seed and the actions."""

    def step(self, actions: Tensor) -> Step:
        """Take actions (E, width), as the task's policy gives them."""

    def close(self) -> None: ...


class Expert(Protocol):
    """Somebody who knows what to do in the worlds of a task, and can be imitated. It may look into them."""

    def begin(self, vector_env: VectorEnv, seed: int) -> None:
        """An episode has begun in `vector_env`, of which there is one; all that is random in the expert comes from `seed`."""

    def act(self, observations: Observations) -> Tensor | None:
        """What to do now, (1, width) as the task's policy gives it; None to give the episode up, which is then not recorded."""


def check_finite(step: Step, title: str, when: str) -> None:
    """See that all numbers of a step are finite.

    Args:
        step: to look at.
        title: of the task.
        when: which step it is, such as ``step 3 of training``.

    Raises:
        RunError: an observation or a reward is not.
    """
    values = {
        "reward": step.rewards,
        **{f"observation '{name}'": value for name, value in step.observations.items()},
    }
    for name, value in values.items():
        if value.is_floating_point() and not np.isfinite(value.numpy()).all():
            env = int((~value.isfinite()).reshape(len(value), -1).any(1).nonzero()[0])
            raise RunError(
                f"{title}: the {name} of environment {env} is not a finite number ({when}). When the environment is mended, go on from "
                "the last update with --resume"
            )
