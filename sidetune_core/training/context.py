"""How a run computes: options, seed, device, processes."""

from __future__ import annotations

import attrs
import torch

from sidetune_core.config.interval import Interval
from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.config.selection import Selection
from sidetune_core.distributed.process_group import ProcessGroup
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.training import TrainingStep
from sidetune_core.system.device import Machine
from sidetune_core.system.signals import StopRequest
from sidetune_core.system.threads import Threads


@attrs.frozen(eq=False)
class Context:
    """What stays the same from task to task. Where a run is written to and shown is the business of a
    `Recorder`.
    """

    options: TrainOptions
    seed: int
    machine: Machine
    group: ProcessGroup = ProcessGroup()
    cache: FeatureCache | None = None
    """Serves frozen bases; None where nothing is cached."""
    stop: StopRequest = attrs.field(factory=StopRequest)
    save_every: Interval = Interval()
    """How often the state within a task is saved."""
    threads: Threads = attrs.field(factory=lambda: Threads(torch.get_num_threads()))
    """The number of threads, which may be adapted between steps."""
    selection: Selection = Selection()
    """The splits that are evaluated, and that of R."""

    def with_autocast(self, step: TrainingStep) -> TrainingStep:
        """The facts of a step, with the precision of this run."""
        return attrs.evolve(step, autocast=self.machine.autocast)
