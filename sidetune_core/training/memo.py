"""The evaluations of earlier tasks that a row of R does not repeat (see `unchanged`), and the check of that.

After each stage, the tasks of the stage are measured, those that read something that it changed, and one of
the others, in turn, whose values must be those of the row before, bit for bit. If they are not, the learner
keeps state that no tensor holds, and every task is measured from then on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import attrs
import torch

from sidetune_core.assembly.cards import CardTask
from sidetune_core.assembly.evaluation import Evaluation
from sidetune_core.certificate import probes
from sidetune_core.certificate.log import CertificateLog
from sidetune_core.certificate.probes import ProbeRecorder, Replay
from sidetune_core.certificate.record import TaskRecord
from sidetune_core.config.identity import Identity
from sidetune_core.distributed.process_group import ProcessGroup
from sidetune_core.errors import shorten
from sidetune_core.interfaces.capabilities import set_task_state, task_state
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.scenarios import Scenario
from sidetune_core.seeding import derive_seed
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.supervised.task import SupervisedTask
from sidetune_core.training.context import Context
from sidetune_core.training.recorder import Recorder
from sidetune_core.training.tracked import TrackedLearner
from sidetune_core.training.unchanged import (
    CHANGED_EARLIER,
    Values,
    bits,
    changed_since,
    depends_on_all_tasks,
    is_whole,
    latest_values,
    not_carried,
    replay_unchanged,
)

REPLAYED_ROWS = 8
"""The first rows of R, before which the probes of all tasks that are not measured are replayed, as before the
first row of a process that resumes the run; later those that the certificate replays."""

ReadData = Callable[[Sequence[str], str], Mapping[str, Task]]
"""Returns tasks with their data, by id; it gets the ids and the reason."""


@attrs.frozen
class Row:
    """What a row of R measures, the same in all processes."""

    number: int
    measured: frozenset[str]
    """Ids of tasks."""
    sample: str = ""
    """The id of the task among them that is measured to check that nothing has changed; empty for none."""
    reasons: Mapping[str, str] = attrs.field(factory=dict)
    """Why tasks of earlier stages are measured, by id."""


@attrs.frozen(eq=False)
class _Standing:
    """Why a task is measured whatever the present stage has changed, by what that depends on."""

    not_carried: str
    uncertain: str


class Memo:
    """The latest evaluation of each task of a run, and whether it holds after a further stage.

    Args:
        folder: of the run; None for a learner that is trained without one, every task of which is measured.
        identity: of the run.
        first: the number of tasks before the extension that is under way; 0 for a run that is not extended.
        read: reads the data of these tasks.
        split: of R.
    """

    def __init__(
        self,
        folder: RunFolder | None = None,
        identity: Identity | None = None,
        first: int = 0,
        read: ReadData | None = None,
        split: str = "test",
    ) -> None:
        self.first, self._split = first, split
        self._folder, self._identity, self._read = folder, identity, read
        self._values: dict[str, Values] = {}
        self._repeated: set[str] = set()
        self._varying: set[str] = set()
        self._threads = 0
        self._rows = 0
        self._outside: set[str] = set()
        self._touched: set[str] | None = None
        self._log: CertificateLog | None = None
        self._revised = 0
        self._clear: dict[str, Task] = {}
        self._cells: dict[str, float | None] = {}
        self.replays: Mapping[str, Replay] = {}
        """Of the probes of earlier tasks, by id, after the present stage; in the main process."""

    @property
    def outside(self) -> frozenset[str]:
        """Ids of the tasks that had other values in a sample although nothing that they read had changed."""
        return frozenset(self._outside)

    def resume(self, done: Sequence[str], group: ProcessGroup) -> None:
        """Read the values of the last row.

        Args:
            done: ids of the tasks that are trained.
            group: the processes.
        """
        if self._folder is not None and done:
            folder = self._folder
            latest = group.broadcast_from_main(lambda: latest_values(folder, done))
            self._values, self._cells, self._clear = dict(latest.values), {}, {}
            self._repeated, self._varying = set(latest.repeated), set(latest.varying)

    def plan(
        self,
        tracked: TrackedLearner,
        stage: Sequence[Task],
        seen: Sequence[Task],
        recorders: Mapping[str, ProbeRecorder],
        context: Context,
        recorder: Recorder,
    ) -> Row:
        """What the row of R after a stage measures.

        Args:
            tracked: the learner after the stage, frozen and in eval mode.
            stage: its tasks.
            seen: the tasks trained so far, those of the stage last.
            recorders: the learner's output for each of them, by id.
            context: of the run.
            recorder: has the certificate.
        """
        before = seen[: len(seen) - len(stage)]

        def decide() -> Row:
            reasons = self._reasons(tracked, before, recorders, context, recorder)
            number = len(seen) - 1
            carried = [task for task in before if task.id not in reasons]
            with_data = [task.id for task in carried if not _is_card(type(task))]
            sample = (
                with_data[derive_seed(context.seed, "sample", number) % len(with_data)] if with_data else ""
            )
            measured = {task.id for task in stage} | reasons.keys() | ({sample} - {""})
            return Row(number, frozenset(measured), sample, reasons)

        return context.group.broadcast_from_main(decide)

    def with_data(self, tasks: Sequence[Task], row: Row) -> Sequence[Task]:
        """The tasks, with data for those that the row measures.

        Raises:
            SidetuneError: the data of a task is gone or has changed.
        """
        bare = [task for task in tasks if task.id in row.measured and _is_card(type(task))]
        if not bare or self._read is None:
            return tasks
        given = self._read([task.id for task in bare], row.reasons.get(bare[0].id, ""))
        for task in bare:
            set_task_state(given[task.id], task_state(task))
        return [given.get(task.id, task) for task in tasks]

    def check(self, row: Row, measured: Mapping[str, Mapping[str, Evaluation]], seen: Sequence[Task]) -> Row:
        """The row; a row that measures all tasks if the sample has other values than in the row before."""
        if not row.sample:
            return row
        now = {split: evaluation.metrics for split, evaluation in measured[row.sample].items()}
        if bits(now) == bits(self._values[row.sample]):
            return row
        self._outside.add(row.sample)
        reason = f"the results of {row.sample} differ although nothing that it reads changed"
        everything = frozenset(task.id for task in seen)
        reasons = dict(row.reasons) | {task.id: reason for task in seen if task.id not in row.measured}
        return Row(row.number, everything, row.sample, reasons)

    def contradiction(
        self, row: Row, measured: Mapping[str, Mapping[str, Evaluation]], learner: Learner
    ) -> str:
        """What to report of a sample that has other values than in the row before."""
        return (
            f"task {row.sample} was evaluated once more after task {row.number + 1}, and has "
            f"{self._difference(row.sample, measured[row.sample])}, although nothing that it reads has "
            f"changed: {type(learner).__name__} or the task keeps state outside of parameters and buffers. "
            "Values of earlier rows that were carried over may be wrong; from this row on every task is "
            "evaluated. To evaluate every task in every row: --train.evaluate all"
        )

    def _difference(self, id: str, measured: Mapping[str, Evaluation]) -> str:
        """How the values of a task differ from those of the row before."""
        for split, evaluation in measured.items():
            for name, value in evaluation.metrics.items():
                before = self._values[id].get(split, {}).get(name)
                if bits({split: {name: before}}) != bits({split: {name: value}}):
                    return f"{name} {value} in place of {before} on split {split}"
        return "other metrics than before"

    def add(self, row: Row, measured: Mapping[str, Mapping[str, Evaluation]]) -> None:
        """Keep the values of a row that was measured."""
        for id, by_split in measured.items():
            values = {split: evaluation.metrics for split, evaluation in by_split.items()}
            if (before := self._values.get(id)) is not None:
                same = bits(values).get(self._split) == bits(before).get(self._split)
                (self._repeated if same else self._varying).add(id)
                (self._varying if same else self._repeated).discard(id)
            self._values[id] = values
            self._cells.pop(id, None)
            self._clear.pop(id, None)
        self._threads = torch.get_num_threads()
        self._rows += 1

    def cells(self, tasks: Sequence[Task]) -> list[float | None]:
        """The values of tasks on the split of R in the last row; None for a gap."""
        known, ids = self._cells, [task.id for task in tasks]
        for task, id in zip(tasks, ids, strict=True):
            if id not in known:
                known[id] = self._values.get(id, {}).get(self._split, {}).get(task.metric)
        return list(map(known.__getitem__, ids))

    def _reasons(
        self,
        tracked: TrackedLearner,
        before: Sequence[Task],
        recorders: Mapping[str, ProbeRecorder],
        context: Context,
        recorder: Recorder,
    ) -> dict[str, str]:
        """Why earlier tasks have to be measured, by id."""
        self.replays = {}
        if not before:
            return {}
        log = recorder.certificate([task.id for task in before])
        if reason := self._reason_for_all(log, len(before), context, tracked.learner.scenario):
            self._touched = None  # the stages since are looked at once more
            return {task.id: reason for task in before}
        records, changed = log.records, recorder.replaced(tracked)
        if self._touched is None:
            self._touched = _touched(tracked, log)
        affected = log.affected(tracked.with_bases(changed))
        self._touched |= affected
        reasons = dict[str, str]()
        self._forget_revised(log)
        unclear, clear = affected | self._touched, self._clear
        for task in [task for task in before if clear.get(task.id) is not task or task.id in unclear]:
            standing = self._standing_of(task, records.get(task.id))
            reason = standing.not_carried or standing.uncertain
            if not reason:
                clear[task.id] = task
            if task.id in affected:
                read = set(changed) & records[task.id].all_tensors.keys()
                reason = f"training changed {shorten(sorted(read or changed))}"
            elif task.id in self._touched:
                reason = standing.not_carried or CHANGED_EARLIER.format(task.id)
            if reason:
                reasons[task.id] = reason
        if len(before) < REPLAYED_ROWS or not self._rows:
            reasons |= self._replay(
                tracked, records, [one for one in before if one.id not in reasons], recorders, context
            )
        return reasons

    def _forget_revised(self, log: CertificateLog) -> None:
        """Look once more at the tasks whose records are others than in the row before."""
        if log is not self._log:
            self._log, self._revised = log, 0
            self._clear = {}
        for id in log.revised[self._revised :]:
            self._clear.pop(id, None)
        self._revised = len(log.revised)

    def _standing_of(self, task: Task, record: TaskRecord | None) -> _Standing:
        """Why a task is measured; it holds until the task is measured or its record is another."""
        uncertain = ""
        if not is_whole(self._values.get(task.id)):
            uncertain = f"the last evaluation of {task.id} has gaps"
        elif not self._is_reproducible(task):
            uncertain = f"the results of {task.id} may not depend on the learner alone"
        return _Standing(not_carried(record, task.id), uncertain)

    def _reason_for_all(self, log: CertificateLog, done: int, context: Context, scenario: Scenario) -> str:
        """Why no value is carried over; empty if some may be."""
        if context.options.evaluate == "all":
            return "--train.evaluate all"
        if reason := depends_on_all_tasks(scenario):
            return reason
        if not log.records or self._identity is None or self._folder is None:
            return "the run has no certificate of what they read"
        self._outside.update(log.outside)
        if self._outside:
            return f"outputs of {shorten(sorted(self._outside))} depend on state outside of tensors"
        if self._rows:
            threads = torch.get_num_threads()
            return (
                "" if threads == self._threads else f"values may differ: threads {self._threads} → {threads}"
            )
        changes = changed_since(self._folder, done - 1, self._identity, log.processor)
        return f"values may differ: {', '.join(changes)}" if changes else ""

    def _replay(
        self,
        tracked: TrackedLearner,
        records: Mapping[str, TaskRecord],
        carried: Sequence[Task],
        recorders: Mapping[str, ProbeRecorder],
        context: Context,
    ) -> dict[str, str]:
        """Replay the probes of tasks that would be carried over; why some cannot be, by id."""
        assert self._folder is not None
        rounding = probes.ROUNDING[context.machine.coarsest_arithmetic]
        reasons, replays = dict[str, str](), dict[str, Replay]()
        for task in carried:
            predict = recorders[task.id].predict
            result = replay_unchanged(
                records[task.id], tracked.learner, predict, self._folder, rounding, tracked.names_at
            )
            if isinstance(result, str):
                reasons[task.id] = result
            else:
                replays[task.id] = result
        self.replays = replays
        return reasons

    def _is_reproducible(self, task: Task) -> bool:
        """Whether an evaluation is a function of the learner's outputs alone, or has been repeated with the
        same values. Environments, and what plugins evaluate, may have state or random numbers of their
        own."""
        if isinstance(task, CardTask):
            return task.id not in self._varying
        if task.id in self._repeated:
            return True
        return isinstance(task, SupervisedTask) and type(task).evaluate is SupervisedTask.evaluate


@functools.cache
def _is_card(kind: type) -> bool:
    """Whether tasks of a class have no data; `isinstance` would take long for all tasks after each."""
    return issubclass(kind, CardTask)


def _touched(tracked: TrackedLearner, log: CertificateLog) -> set[str]:
    """Ids of the tasks of which a later stage has changed what they read, as far as the certificate knows.

    Outputs of a base that the feature cache served were computed earlier: reads within the base are not seen.
    It serves a base only as long as that is frozen and as it was built, and what changes any tensor of a base
    counts as a change to all of it.
    """
    touched, done = set[str](), 0
    for stage in log.stages:
        affected = log.affected(tracked.with_bases(stage.changed)) if stage.changed else ()
        touched.update(id for id in affected if log.records[id].after <= done)
        done += len(stage.tasks)
    return touched
