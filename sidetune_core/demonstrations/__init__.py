"""Demonstrations: trajectories of an expert, recorded into files and learned from by imitation."""

from sidetune_core.demonstrations.dataset import Demonstrations, Trajectories, open_demonstrations
from sidetune_core.demonstrations.record import record_demonstrations

__all__ = ["Demonstrations", "Trajectories", "open_demonstrations", "record_demonstrations"]
