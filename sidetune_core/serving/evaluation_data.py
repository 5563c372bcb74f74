"""The data of an evaluation: those of each env of a run, or other data in place of one env's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, closing, contextmanager

import attrs

from sidetune_core.assembly.build import build_stream
from sidetune_core.assembly.data import record_data
from sidetune_core.assembly.parts import Part, with_id
from sidetune_core.config.data_record import DataRecord, find, of_task, part_changes, tasks_of
from sidetune_core.errors import DataError, FitError, OptionError, SidetuneError, shorten
from sidetune_core.interfaces.tasks import Task, TaskStream


@attrs.frozen(eq=False)
class PartData:
    """The data of one env of a run."""

    part: Part
    available: tuple[str, ...]
    """Ids in the env of the tasks that the data have."""
    tasks: Mapping[str, Task]
    """Those that the run has, by their id in the run."""
    fingerprint: str
    stream: TaskStream
    number: int
    """Of the part in the run: 0, or that of its extension."""

    def changes(self, records: Sequence[DataRecord], known: str) -> Mapping[str, tuple[str, ...]]:
        """What of the data of each task, by its id in the run, is not as in the run; in lines, which are
        none where that is unknown.

        Args:
            records: of the data of the run.
            known: the fingerprint of the data that the tasks were trained on.
        """
        before = find(records, self.number, known)
        if before is None or known == self.fingerprint:
            return {}
        now = record_data(self.stream, list(self.tasks.values()), self.part.tasks, self.number, self.part.env)
        named, present = tasks_of(before), tasks_of(now)
        if not any(of in named for of in self.part.tasks.values()):  # the parts are those of no one task
            return dict.fromkeys(self.part.tasks, tuple(part_changes(before, now)))
        return {
            id: tuple(part_changes(of_task(before, of), of_task(now, of)))
            for id, of in self.part.tasks.items()
            if of in named and of in present
        }

    def find(self, id: str) -> Task:
        """A task by its id in the run.

        Raises:
            FitError: the data do not have it.
        """
        if id in self.tasks:
            return self.tasks[id]
        of = self.part.tasks[id]
        renamed = f", which is task '{id}' of the run" if id != of else ""
        raise FitError(f"the data have no task '{of}'{renamed}; their tasks are {shorten(self.available)}")


def replaced_part(parts: Sequence[Part], ids: Sequence[str] | None) -> Part:
    """The part whose data other data replace: the one that has the tasks `ids`, or the only one.

    Raises:
        OptionError: the tasks are those of several parts.
    """
    if len(parts) == 1:
        return parts[0]
    asked = [part for part in parts if set(ids or ()) & set(part.tasks)]
    if len(asked) == 1:
        return asked[0]
    listed = "; ".join(f"{', '.join(part.tasks)} of {part.env}" for part in parts)
    raise OptionError(
        f"the run has tasks of several envs ({listed}), and other data (--env) replace those of one: "
        "pass --task ID"
    )


@contextmanager
def open_parts(
    parts: Sequence[Part], needed: Collection[str], chosen: Sequence[str] | None
) -> Iterator[list[PartData]]:
    """The data of the parts that have one of the tasks `needed`, for a block.

    Args:
        parts: of a run.
        needed: ids of tasks in the run.
        chosen: what the user asked for; None for all tasks.

    Raises:
        SidetuneError: data cannot be read; the message names the part if there are several.
    """
    with ExitStack() as stack:
        opened = []
        for number, part in enumerate(parts):
            if not set(part.tasks) & set(needed):
                continue
            try:
                opened.append(_open(stack, part, number))
            except SidetuneError as error:
                if len(parts) == 1 or chosen is not None:
                    raise
                raise _unreadable(part, parts, error) from error
        yield opened


def _open(stack: ExitStack, part: Part, number: int) -> PartData:
    stream = stack.enter_context(closing(build_stream(part.resolved)))
    with chdir("."):
        available = {task.id: task for task in stream.tasks()}
        fingerprint = stream.data_fingerprint()
    present = {id: of for id, of in part.tasks.items() if of in available}
    tasks = {id: with_id(available[of], id) for id, of in present.items()}
    return PartData(part, tuple(available), tasks, fingerprint, stream, number)


def _unreadable(part: Part, parts: Sequence[Part], error: SidetuneError) -> DataError:
    others = [id for other in parts if other is not part for id in other.tasks]
    return DataError(
        f"the data of {part.env} cannot be read, from which the run has {', '.join(part.tasks)}: {error}. "
        f"To evaluate tasks of other envs ({shorten(others)}), pass --task ID"
    )
