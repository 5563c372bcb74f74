"""Stands in for the four modules of habitat-lab that cannot be imported without habitat-sim, and that point-goal navigation has no use for.

Nothing is done where habitat-sim is installed.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def stand_in() -> None:
    """Put empty modules in the places of those four, unless the real ones can be had."""
    if importlib.util.find_spec("habitat_sim") is not None:
        return
    names: dict[str, dict[str, Any]] = {
        "habitat.core.batch_rendering.env_batch_renderer": {"EnvBatchRenderer": object},
        "habitat.sims.habitat_simulator.object_state_machine": {"ObjectStateMachine": object},
        "habitat.tasks.rearrange": {"_try_register_rearrange_task": lambda: None, "__path__": []},
        "habitat.tasks.rearrange.rearrange_sim": {"add_perf_timing_func": _untimed},
    }
    for name, content in names.items():
        module = sys.modules[name] = types.ModuleType(name)
        vars(module).update(content)


def _untimed(name: str | None = None) -> Callable[[Function], Function]:
    """In place of a decorator that measures time."""
    return lambda function: function
