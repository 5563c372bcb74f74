"""The learner after a stage, with what a recorder needs of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs

from sidetune_core.certificate.probes import ProbeRecorder, Replay
from sidetune_core.interfaces.tasks import Task
from sidetune_core.training.stage import Stage
from sidetune_core.training.tracked import TrackedLearner


@attrs.frozen(eq=False)
class Boundary:
    """A learner after a stage, with what is needed to record what the stage did."""

    tracked: TrackedLearner
    stage: Stage
    seen: Sequence[Task]
    """The tasks trained so far, those of the stage last."""
    probes: Mapping[str, ProbeRecorder]
    """By id of a task in `seen`, the predictions that it has just been evaluated with."""
    before: Mapping[str, str]
    """Digests of all tensors before the stage."""
    at_start: Collection[str] = ()
    """Names of the tensors that the learner had before the first task; empty after a later stage."""
    replays: Mapping[str, Replay] = attrs.field(factory=dict)
    """Of the probes of earlier tasks, by id, where they were replayed after the stage."""
    measured: Collection[str] | None = None
    """Ids of the tasks in `seen` that have been evaluated after the stage; None for all."""
    outside: Collection[str] = ()
    """Ids of the tasks that had other values when they were evaluated once more, although nothing that they
    read had changed."""
    is_full: bool = True
    """Whether the probes of all tasks are replayed."""
