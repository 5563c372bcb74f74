"""What a run carries from task to task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import Tensor

from sidetune_core.config.interval import Interval
from sidetune_core.config.spec import TrainOptions
from sidetune_core.distributed.process_group import ProcessGroup
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.storage.run_folder import Clock, RunFolder
from sidetune_core.system.device import Machine
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import StopRequest

Curve = Callable[[Mapping[str, float], int], None]
"""Takes named figures and the number of steps over all tasks."""

Show = Callable[[str, Tensor, int], None]
"""Takes a picture's name, the picture (3, H, W) in [0, 1], and the number of tasks that have been learnt."""


def _nowhere(name: str, picture: Tensor, step: int) -> None:
    """Show nothing."""


@attrs.frozen
class Session:
    """What stays the same from task to task: options, and the places where a run is computed, kept and shown."""

    options: TrainOptions
    seed: int
    machine: Machine
    folder: RunFolder
    store: FeatureCache | None
    progress: Progress
    curve: Curve
    save_every: Interval = Interval()
    stop: StopRequest = attrs.field(factory=StopRequest)
    clock: Clock = attrs.Factory(lambda self: Clock(self.folder, self.machine.peak_memory), takes_self=True)
    group: ProcessGroup = ProcessGroup()
    show: Show = _nowhere

    def draw(self, line: Mapping[str, Any]) -> None:
        """Draw a line of ``metrics.jsonl`` as points of curves, one for each figure of its task."""
        figures = {
            name: value for name, value in line.items() if name not in ("task", "step", "lr", "mean_loss")
        }
        self.curve({f"{line['task']}/{name}": value for name, value in figures.items()}, line["step"])
