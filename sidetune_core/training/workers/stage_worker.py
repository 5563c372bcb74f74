"""What a worker process does: it trains a stage while others train others, and hands it over.

The tasks before are started, and not trained: the stage reads nothing of them. Both directions are checked,
since the learner only declares it (`Learner.independent_tasks`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

import attrs

from sidetune_core.certificate.probes import ProbeRecorder, track_reads
from sidetune_core.config.identity import Identity
from sidetune_core.errors import PluginError, shorten
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.seeding import seeded
from sidetune_core.storage.checkpoint import Checkpoint
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.training.context import Context
from sidetune_core.training.evaluate import evaluate_splits
from sidetune_core.training.loop import record_probes, train_stage
from sidetune_core.training.stage import Stage
from sidetune_core.training.tracked import TrackedLearner
from sidetune_core.training.trainable import start_task
from sidetune_core.training.workers.entry_digests import EntryDigests, entry_digest
from sidetune_core.training.workers.handover import Handover
from sidetune_core.training.workers.handover_recorder import HandoverRecorder


@attrs.define(eq=False)
class StageWorker:
    """Trains stages of a run, in any order.

    Args:
        learner: in which the first `started` tasks are started.
        shared: digests of the entries of its state dict before its first task.
        tasks: of the run.
        started: number of tasks that were started.
        context: of the run.
        folder: of the run.
        identity: of the run.
    """

    learner: Learner
    shared: Collection[str]
    tasks: Sequence[Task]
    started: int
    context: Context
    folder: RunFolder
    identity: Identity | None
    _digests: EntryDigests = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._digests = EntryDigests(self.shared)

    @cached_property
    def _tracked(self) -> TrackedLearner:
        """The learner in the worker process."""
        return TrackedLearner(self.learner)

    def train(
        self,
        stage: Stage,
        resumed: Checkpoint | Handover | None,
        since: int,
        progress: Callable[[int, int], None],
    ) -> None:
        """Train a stage, evaluate its tasks and hand it over.

        Args:
            stage: after those that this worker has trained.
            resumed: the state within it; None for its start.
            since: step of the run's own checkpoint in it, 0 for none.
            progress: see `HandoverRecorder`.

        Raises:
            PluginError: a task has changed or read what another one trains.
            StopRequested: a signal came, and the state is saved.
        """
        tracked, context = self._tracked, self.context
        learner = tracked.learner
        seen = self.tasks[: self.tasks.index(stage.last) + 1]
        for task in seen[self.started : len(seen) - len(stage.tasks)]:
            FeatureCache.detach(learner, tracked.bases)
            start_task(tracked, task, context)
        before = self._digests.update(learner.state_dict())
        handed = resumed if isinstance(resumed, Handover) else None
        recorder = HandoverRecorder(
            self.folder, stage, len(seen), before, self.identity, handed, since, progress
        )
        if context.cache is not None:
            context.cache.info, context.cache.warning = recorder.info, recorder.warning
            context.cache.reload()
        loaded = resumed.state if isinstance(resumed, Checkpoint) else {}
        before |= {name: entry_digest(loaded[name]) for name in before.keys() & loaded.keys()}
        trained = train_stage(tracked, stage, seen, resumed, context, recorder)
        self.started = len(seen)
        after = self._digests.update(learner.state_dict())
        changed = sorted(name for name in before if after.get(name, before[name]) != before[name])
        if changed:
            raise PluginError(
                f"training {stage.name} has changed {len(changed)} tensors that it does not own, "
                f"{shorten(changed)}: {_declares(learner)}"
            )
        tracked.refresh()
        probes = record_probes(learner, stage.tasks, context, tracked.names_at)
        evaluations = {
            task.id: evaluate_splits(task, probes[task.id], learner, context) for task in stage.tasks
        }
        self._check_reads(
            stage, probes, [name for name, digest in before.items() if digest not in self.shared]
        )
        if context.cache is not None:
            context.cache.save()
        recorded = {id: probe.recorded for id, probe in probes.items()}
        recorder.hand_over(learner, trained.steps, evaluations, recorded)

    def _check_reads(
        self, stage: Stage, probes: Mapping[str, ProbeRecorder], others: Collection[str]
    ) -> None:
        """Check that no task of a stage reads what `start` has made for an earlier one, by the names
        `others`.

        Raises:
            PluginError: one does.
        """
        for task in stage.tasks:
            reads = track_reads(self.learner)
            with seeded(0, "probes", task.id), reads:
                probes[task.id].predict(probes[task.id].recorded.as_inputs())
            read = reads.names.union(probes[task.id].recorded.reads)
            if found := sorted(read.intersection(others)):
                raise PluginError(
                    f"task {task.id} reads {len(found)} tensors of earlier tasks, {shorten(found)}: "
                    f"{_declares(self.learner)}"
                )


def _declares(learner: Learner) -> str:
    return (
        f"{type(learner).__name__}.independent_tasks is True, and its tasks are not independent. Correct it, "
        "or train them one after another, without --workers"
    )
