"""The tasks of a run by the env that they come from: a run that was extended has several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, closing, contextmanager
from functools import cached_property

import attrs

from sidetune_core.assembly.build import build_stream
from sidetune_core.assembly.cards import CardTask, make_handler, read_cards
from sidetune_core.config.extensions import read_extensions, resolved_extension
from sidetune_core.config.given import Objects, given_of, has_object, with_objects
from sidetune_core.config.plugin_record import PluginRecord, make_record
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.config.spec import Trust
from sidetune_core.errors import FitError, OptionError, RunError
from sidetune_core.interfaces.capabilities import vocabulary_size
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.storage.run_files import CARDS
from sidetune_core.storage.run_folder import RunFolder


@attrs.frozen(eq=False, slots=False)
class Part:
    """The tasks of a run that come from one env."""

    resolved: ResolvedRun
    """The run with this env."""
    tasks: Mapping[str, str]
    """The id in the env of each task, by its id in the run, in order."""
    data: str
    """The fingerprint of the data that they were trained on; empty if unknown."""

    @property
    def env(self) -> str:
        """``env 'digits'``"""
        return self.resolved.components["env"].owner

    @cached_property
    def record(self) -> PluginRecord:
        """The plugin of the env, as it is installed."""
        return make_record("env", self.resolved.components["env"].plugin)

    @property
    def renames(self) -> bool:
        """Whether a task has another id in the env."""
        return any(id != of for id, of in self.tasks.items())


def read_parts(
    folder: RunFolder,
    resolved: ResolvedRun,
    trust_local_code: Trust = False,
    tasks: Sequence[Task] | None = None,
) -> list[Part]:
    """The parts of a run, at least one.

    Args:
        folder: of the run.
        resolved: the run with its first env, and with its network if Python gave that (see
            `restore.read_resolved`).
        trust_local_code: see `Trust`.
        tasks: those that Python gave to a run that was extended, of all its parts in order, or of the first
            or the last of these alone; None for none.

    Raises:
        OptionError: there are more or fewer tasks.
        RunError: ``run.json`` is damaged.
        SidetuneError: the env of an extension cannot be resolved.
    """
    about = folder.read_json("run.json")
    extensions = read_extensions(about)
    ids = [str(task["id"]) for task in about["tasks"]]
    first = ids[: extensions[0].first] if extensions else ids
    parts = [Part(resolved, {id: id for id in first}, str(about.get("data", "")))]
    source = str(folder.path / "run.json")
    for extension in extensions:
        env = resolved_extension(about, extension, source, trust_local_code)
        env = with_objects(env, Objects(given_of(resolved, "base")))
        parts.append(Part(env, extension.tasks, extension.data))
    return parts if tasks is None else _with_tasks(parts, tasks)


def _with_tasks(parts: Sequence[Part], tasks: Sequence[Task]) -> list[Part]:
    """The parts with the tasks that Python gave to them."""
    of_python = [part for part in parts if has_object(part.resolved, "env")]
    counts = [len(part.tasks) for part in of_python]
    if len(tasks) == sum(counts):
        chosen = of_python
    elif counts and len(tasks) == counts[-1]:
        chosen = of_python[-1:]
    elif counts and len(tasks) == counts[0]:
        chosen = of_python[:1]
    else:
        listed = ", ".join(f"{', '.join(part.tasks)}" for part in of_python) or "none"
        raise OptionError(
            f"tasks= has {len(tasks)} tasks; those of the run that Python gave are {sum(counts)}: {listed}"
        )
    rest, given = list(tasks), {}
    for part in chosen:
        given[id(part)] = Objects(tasks=tuple(rest[: len(part.tasks)]))
        rest = rest[len(part.tasks) :]
    return [
        attrs.evolve(part, resolved=with_objects(part.resolved, given[id(part)]))
        if id(part) in given
        else part
        for part in parts
    ]


def read_tasks(part: Part, stream: TaskStream) -> list[Task]:
    """The tasks of a part with their data, under their ids in the run.

    Args:
        part: of a run.
        stream: its env, open.

    Raises:
        DataError: the data is missing or unreadable.
        RunError: the env no longer has one of the tasks.
    """
    with chdir("."):
        tasks = {task.id: task for task in stream.tasks()}
    if missing := [of for of in part.tasks.values() if of not in tasks]:
        raise RunError(f"{part.env} no longer has {', '.join(missing)}; it has {', '.join(tasks)}")
    return [with_id(tasks[of], id) for id, of in part.tasks.items()]


def with_id(task: Task, id: str) -> Task:
    """A task under another id.

    Raises:
        FitError: its class does not let its id be changed.
    """
    if task.id == id:
        return task
    try:
        task.id = id
    except AttributeError as error:
        raise FitError(
            f"task '{task.id}' would be '{id}' in this run, and {type(task).__name__} does not let its id be "
            "changed: make id a plain attribute"
        ) from error
    return task


@contextmanager
def open_tasks(parts: Sequence[Part]) -> Iterator[tuple[TaskStream, list[Task]]]:
    """The first env of a run, and all tasks of the run with their data, for a block."""
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(build_stream(part.resolved))) for part in parts]
        pairs = zip(parts, streams, strict=True)
        yield streams[0], [task for part, stream in pairs for task in read_tasks(part, stream)]


def card_tasks(folder: RunFolder, part: Part) -> list[Task]:
    """The tasks of a part without their data.

    Raises:
        RunError: a card is missing, as in runs of earlier versions, or damaged.
    """
    cards = read_cards(folder, list(part.tasks))
    trust = part.resolved.needs_trust
    return [
        CardTask(
            card,
            make_handler(card, folder.path / CARDS / f"{id}.json", trust) if card.head == "handler" else None,
        )
        for id, card in cards.items()
    ]


class ChainedStream(TaskStream):
    """Tasks that come from several envs, for a learner that is built for the inputs of the first.

    Args:
        stream: the env that gives the vocabulary, if inputs are tokens.
        tasks: of all envs, in order.
        inputs: shapes of the first env's inputs.
    """

    def __init__(self, stream: TaskStream, tasks: Sequence[Task], inputs: InputShapes) -> None:
        self._stream, self._tasks, self.inputs = stream, tasks, inputs

    @property
    def vocabulary_size(self) -> int | None:
        """See `HasVocabulary`."""
        return vocabulary_size(self._stream)

    def tasks(self) -> Sequence[Task]:
        return self._tasks
