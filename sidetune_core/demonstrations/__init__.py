"""Demonstrations: recorded trajectories of experts, for imitation learning."""

from sidetune_core.demonstrations.dataset import (
    Demonstrations,
    Trajectories,
    open_demonstrations,
    recorded_handler,
)
from sidetune_core.demonstrations.imported import ImportedDemonstrations, open_file
from sidetune_core.demonstrations.raw_files import is_raw
from sidetune_core.demonstrations.record import record_demonstrations

__all__ = [
    "Demonstrations",
    "ImportedDemonstrations",
    "Trajectories",
    "is_raw",
    "open_demonstrations",
    "open_file",
    "record_demonstrations",
    "recorded_handler",
]
