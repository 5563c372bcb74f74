"""What can be served: a learner's state with its tasks, from a run or from an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sidetune_core.assembly.cards import read_cards
from sidetune_core.assembly.restore import read_resolved
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.errors import RunError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import RunFolder


@attrs.frozen(eq=False)
class Trained:
    """A trained learner, and what is needed to use its tasks."""

    resolved: ResolvedRun
    cards: Mapping[str, TaskCard]
    """In the order in which the learner is started on the tasks."""
    state: Mapping[str, Any]
    """State dict of a learner that has been started on exactly these tasks."""
    task_states: Mapping[str, Any]
    """See `capabilities.task_states`."""
    source: str
    """Its path, for messages."""
    tasks: tuple[str, ...]
    """Those that may be asked for: an adapter may have earlier tasks that only serve its own."""


def read_run(folder: RunFolder, trust_local_code: bool = False) -> Trained:
    """What a run has trained, from its newest complete checkpoint; nothing is written or locked.

    Raises:
        RunError: the run has no complete checkpoint yet, or its cards are missing.
        UntrustedCode: ``run.json`` names code to import, without `trust_local_code`.
    """
    path = checkpoint.latest(folder.checkpoints)
    if path is None:
        raise RunError(f"{folder.path} has no checkpoint yet: no task is finished")
    newest = checkpoint.read(path)
    return Trained(
        read_resolved(folder, trust_local_code),
        read_cards(folder, newest.done),
        newest.state,
        newest.tasks,
        str(folder.path),
        tuple(newest.done),
    )
