"""Demonstrations: recorded trajectories of experts, for imitation learning."""

from sidetune_core.demonstrations.dataset import (
    Demonstrations,
    Trajectories,
    open_demonstrations,
    recorded_handler,
)
from sidetune_core.demonstrations.imported import ImportedDemonstrations, open_file
from sidetune_core.demonstrations.labellers import open_labeller
from sidetune_core.demonstrations.minari_ids import check_downloaded
from sidetune_core.demonstrations.raw_files import is_raw
from sidetune_core.demonstrations.record import record_demonstrations
from sidetune_core.demonstrations.relabel import Labelled, MakeExpert, label_episodes

__all__ = [
    "Demonstrations",
    "ImportedDemonstrations",
    "Labelled",
    "MakeExpert",
    "Trajectories",
    "check_downloaded",
    "is_raw",
    "label_episodes",
    "open_demonstrations",
    "open_file",
    "open_labeller",
    "record_demonstrations",
    "recorded_handler",
]
