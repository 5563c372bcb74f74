"""Replaces four modules of habitat-lab that need habitat-sim and that point-goal navigation does not use.

Nothing is replaced if habitat-sim is installed.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def stand_in() -> None:
    """Register empty modules under their names, unless habitat-sim is installed."""
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
    """Replaces a decorator that measures time."""
    return lambda function: function
