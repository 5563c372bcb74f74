"""Demonstrations: recorded trajectories of experts, for imitation learning."""

from sidetune_core.demonstrations.dataset import (
    Demonstrations,
    Trajectories,
    open_demonstrations,
    recorded_handler,
)
from sidetune_core.demonstrations.record import record_demonstrations

__all__ = [
    "Demonstrations",
    "Trajectories",
    "open_demonstrations",
    "record_demonstrations",
    "recorded_handler",
]
