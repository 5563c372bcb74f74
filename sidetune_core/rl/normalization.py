"""What a network is given for what worlds give: observations in their units, and standardised by what training has seen; rewards too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sidetune_core.interfaces.inputs import Inputs, InputShapes
from sidetune_core.rl.running_stats import RunningMeanStd
from sidetune_core.rl.vector_env import Observations


class ObservationNormalizer:
    """Units, and running statistics of training where they are asked for.

    Args:
        inputs: shapes of observations, by name.
        units: by name, what an observation is divided by; 1 where a name is absent.
        observations: standardise those that are vectors.
        rewards: divide rewards by the deviation of the discounted return.
    """

    def __init__(
        self, inputs: InputShapes, units: Mapping[str, float], observations: bool, rewards: bool
    ) -> None:
        self.names, self._units, self._rewards = tuple(inputs), units, rewards
        self._moments = {
            name: RunningMeanStd.of(shape)
            for name, shape in inputs.items()
            if len(shape) == 1 and observations
        }
        self._returns = RunningMeanStd.of(())

    def see(self, observations: Observations) -> None:
        """Take observations (B, *shape) of training into account."""
        for name, moments in self._moments.items():
            moments.see(observations[name])

    def standardised(self, observations: Observations) -> Observations:
        """Observations (B, *shape) by the statistics so far; those that have none as they are."""
        return {
            **observations,
            **{name: one.standardised(observations[name]) for name, one in self._moments.items()},
        }

    def arrived(self, observations: Observations) -> Observations:
        """Observations (B, *shape) of training, taken into account and standardised."""
        self.see(observations)
        return self.standardised(observations)

    def inputs(
        self, observations: Observations, ids: Tensor | None = None, window: int | None = None
    ) -> Inputs:
        """What a network is given for observations (B, *shape) that are standardised already; `ids` and `window`: see `Inputs`."""
        tensors = {}
        for name in self.names:
            value, unit = observations[name].float(), self._units.get(name, 1.0)
            tensors[name] = value if unit == 1.0 else value / unit
        return Inputs(tensors, ids, window=window)

    def rewards(
        self, rewards: Tensor, ended: Tensor, discounted: Tensor, gamma: float
    ) -> tuple[Tensor, Tensor]:
        """Rewards (E,) of training, to learn from, and the discounted returns (E,) after this step.

        Args:
            rewards: as the worlds give them, (E,).
            ended: where an episode has ended, (E,) bool.
            discounted: the returns before this step, (E,).
            gamma: discount.
        """
        if not self._rewards:
            return rewards, discounted
        discounted = discounted * gamma + rewards
        self._returns.see(discounted)
        return self._returns.scaled(rewards), discounted * ~ended

    def state(self) -> dict[str, Any]:
        """The statistics in plain values; empty where nothing is standardised."""
        if not self._moments and not self._rewards:
            return {}
        return {
            "observations": {name: one.state() for name, one in self._moments.items()},
            "returns": self._returns.state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        if state:
            self._moments = {
                name: RunningMeanStd.from_state(one) for name, one in state["observations"].items()
            }
            self._returns = RunningMeanStd.from_state(state["returns"])
