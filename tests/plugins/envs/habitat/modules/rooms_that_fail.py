"""A simulator that fails in its third step."""

from __future__ import annotations

from typing import Any

import habitat_rooms  # noqa: F401 - habitat can be imported after it
from habitat.core.registry import registry
from habitat_rooms.simulator import RoomsSimulator


@registry.register_simulator(name="Failing-v0")
class Failing(RoomsSimulator):
    steps = 0

    def step(self, action: Any, *args: Any, **kwargs: Any) -> Any:
        self.steps += 1
        if self.steps == 3:
            raise ArithmeticError("the floor is gone")
        return super().step(action, *args, **kwargs)
