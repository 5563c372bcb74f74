"""How a run is computed and saved, apart from its spec: what changes no result, except for rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import attrs

from sidetune_core.config.interval import Interval
from sidetune_core.errors import OptionError
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


SAVE_EVERY = "60s"
"""How often a run saves its state within a task, by default."""


def check_keep(keep: str) -> None:
    """Check what earlier checkpoints are to keep.

    Raises:
        OptionError: it is neither 'all' nor 'last'.
    """
    if keep not in get_args(Keep):
        raise OptionError(f"--keep takes {' or '.join(get_args(Keep))}, not {keep!r}")
