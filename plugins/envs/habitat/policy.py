"""Policies of habitat without the simulator: the handler of their tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from sidetune_core.api import InputError, TaskCard
from sidetune_core.rl import PolicyHandler, check_array, check_count

from .convert import sensor_input
from .spec import GOAL, MAP, SensorInput


class HabitatHandler(PolicyHandler):
    """Observations are those of habitat, a dictionary by sensor, and actions are habitat's names of them.

    The input ``map`` is drawn from the state of the simulator: an observation has to have it as ``map``, (3,
    map-size, map-size) bytes.
    """

    def __init__(self, card: TaskCard) -> None:
        super().__init__(card)
        values = card.values
        self._sensors = {str(name): SensorInput(**sensor) for name, sensor in values["sensors"].items()}
        self._actions = [str(name) for name in values["action_names"]]
        if self.policy.size != len(self._actions):
            raise ValueError(f"the actions are {self._actions}, and the policy {self.values.policy!r}")
        self._tile = None if values["tile"] is None else check_count(values["tile"], "tile", least=1)
        self.mask_images = bool(values["mask_images"])
        self.frames = check_count(values["frame_stack"], "frame_stack", least=1)

    def observe(self, observation: Any) -> Mapping[str, Any]:
        """See `PolicyHandler.observe`."""
        if not isinstance(observation, Mapping):
            raise InputError(
                f"task {self.card.id}: an observation is a dictionary by sensor of habitat, not a "
                f"{type(observation).__name__}"
            )
        return {name: self._input(name, observation) for name in self.card.inputs}

    def padding(self, first: Mapping[str, Any]) -> Mapping[str, Any]:
        """Zeros."""
        return {name: np.zeros_like(value) for name, value in first.items()}

    def native(self, actions: Tensor) -> list[str]:
        """Names of actions, such as ``move_forward``."""
        return [self._actions[index] for index in actions[:, 0].long().tolist()]

    def _input(self, name: str, observation: Mapping[str, Any]) -> Any:
        sensor = self._sensors[name]
        what = f"task {self.card.id}: the observation '{sensor.uuid}'"
        if sensor.uuid not in observation:
            hint = " (env 'habitat' draws it from the state of the simulator)" if name == MAP else ""
            raise InputError(f"task {self.card.id}: the observation has no '{sensor.uuid}'{hint}")
        array = check_array(observation[sensor.uuid], tuple(sensor.shape), what, sensor.is_bytes)
        if name == MAP:
            return array
        return sensor_input(
            name, array, polar=sensor.polar and name == GOAL, tile=self._tile, mask_images=self.mask_images
        )
