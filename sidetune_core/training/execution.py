"""How a run is computed and saved, apart from its spec: what changes no result, except for rounding."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from sidetune_core.config.interval import Interval
from sidetune_core.storage.compaction import Keep
from sidetune_core.system.threads import Threads
from sidetune_core.training.callbacks import Callback
from sidetune_core.training.workers.count import Count


@attrs.frozen(eq=False)
class Execution:
    """See the arguments of `run`."""

    save_every: Interval
    keep: Keep
    threads: Threads
    workers: Count = 1
    callbacks: Sequence[Callback] = ()
