"""From raw observations to network inputs: scaling by units, standardisation by running statistics, reward
scaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sidetune_core.interfaces.inputs import Inputs, InputShapes
from sidetune_core.rl.running_stats import RunningMeanStd
from sidetune_core.rl.vector_env import Observations


class ObservationNormalizer:
    """Units, and running statistics of training if requested.

    Args:
        inputs: shapes of the observations, by name.
        units: divisors of the observations, by name; 1 where a name is absent.
        observations: whether to standardise observations that are vectors.
        rewards: whether to divide rewards by the standard deviation of the discounted return.

    Attributes:
        statistics: of the observations that are standardised, by name.
    """

    def __init__(
        self, inputs: InputShapes, units: Mapping[str, float], observations: bool, rewards: bool
    ) -> None:
        self.names, self._units, self._rewards = tuple(inputs), units, rewards
        vectors = [name for name, shape in inputs.items() if len(shape) == 1]
        self.statistics = {name: RunningMeanStd.of(inputs[name]) for name in vectors if observations}
        self._returns = RunningMeanStd.of(())

    def update(self, observations: Observations) -> None:
        """Include observations (B, *shape) of training in the running statistics."""
        for name, statistics in self.statistics.items():
            statistics.update(observations[name])

    def standardised(self, observations: Observations) -> Observations:
        """Observations (B, *shape), standardised by the statistics so far; those without statistics are
        unchanged."""
        changed = {
            name: statistics.standardised(observations[name]) for name, statistics in self.statistics.items()
        }
        return {**observations, **changed}

    def update_and_standardise(self, observations: Observations) -> Observations:
        """`update`, then `standardised`."""
        self.update(observations)
        return self.standardised(observations)

    def inputs(
        self, observations: Observations, ids: Tensor | None = None, window: int | None = None
    ) -> Inputs:
        """Network inputs from standardised observations (B, *shape); `ids` and `window`: see `Inputs`."""
        tensors = {}
        for name in self.names:
            value, unit = observations[name].float(), self._units.get(name, 1.0)
            tensors[name] = value if unit == 1.0 else value / unit
        return Inputs(tensors, ids, window=window)

    def of_observations(self, observations: Observations) -> Inputs:
        """Network inputs for observations (B, *shape) that a user gives: standardised, and divided by their
        units but for images of floats, which are taken as they are."""
        inputs = self.inputs(self.standardised(observations))
        floats = {
            name: observations[name].float()
            for name in self.names
            if observations[name].ndim == 4 and observations[name].is_floating_point()
        }
        return Inputs({**inputs, **floats})

    def scale_rewards(
        self, rewards: Tensor, ended: Tensor, discounted: Tensor, gamma: float
    ) -> tuple[Tensor, Tensor]:
        """Scaled training rewards (E,), and the discounted returns (E,) after this step.

        Args:
            rewards: raw rewards of the environments, (E,).
            ended: where an episode has ended, (E,) bool.
            discounted: the discounted returns before this step, (E,).
            gamma: discount factor.
        """
        if not self._rewards:
            return rewards, discounted
        discounted = discounted * gamma + rewards
        self._returns.update(discounted)
        return self._returns.scaled(rewards), discounted * ~ended

    def state(self) -> dict[str, Any]:
        """The statistics in plain values; empty if nothing is standardised."""
        if not self.statistics and not self._rewards:
            return {}
        return {
            "observations": {name: statistics.state() for name, statistics in self.statistics.items()},
            "returns": self._returns.state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        if state:
            self.statistics = {
                name: RunningMeanStd.from_state(values) for name, values in state["observations"].items()
            }
            self._returns = RunningMeanStd.from_state(state["returns"])
