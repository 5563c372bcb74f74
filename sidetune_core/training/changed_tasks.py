"""What no run can be resumed with, whatever the user accepts: other tasks, and tasks with other outputs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sidetune_core.assembly.cards import CardTask, read_cards
from sidetune_core.config.resolve import ResolvedComponent
from sidetune_core.errors import RunError, shorten
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.interfaces.tasks import Task
from sidetune_core.io.printable import counted
from sidetune_core.storage.run_folder import RunFolder


def check_tasks(
    folder: RunFolder,
    about: Mapping[str, Any],
    before: Sequence[str],
    now: Sequence[str],
    env: ResolvedComponent,
    finished: bool,
) -> None:
    """Check that an env has the tasks that a run was started with.

    Args:
        folder: of the run.
        about: its ``run.json``.
        before: ids of its tasks.
        now: ids of the env's tasks.
        env: the env.
        finished: whether all tasks of the run are trained.

    Raises:
        RunError: it has others.
    """
    path = folder.path
    if gone := [id for id in before if id not in now]:
        raise RunError(
            f"{env.owner} no longer has {_tasks(gone)} that {path} was started with; it has "
            f"{shorten(list(now))}: restore the data of {shorten(gone)}"
        )
    if new := [id for id in now if id not in before]:
        way = (
            "add" if finished else f"take the data of {shorten(new)} away until the run is finished, then add"
        )
        raise RunError(
            f"{env.owner} now also has {_tasks(new)} that {path} was not started with: {way} "
            f"{'it' if len(new) == 1 else 'them'}: {_extend_command(folder, about, env, new)}"
        )
    if list(before) != list(now):
        raise RunError(
            f"{env.owner} has the tasks that {path} was started with in another order: "
            f"{shorten(list(before))} → {shorten(list(now))}: restore the order"
        )


def check_outputs(folder: RunFolder, tasks: Sequence[Task]) -> None:
    """Check that the outputs of tasks are those on their cards: heads have been made for these.

    Raises:
        RunError: a class was added or removed, or classes are in another order.
    """
    problems = [problem for task in tasks if (problem := _other_outputs(folder, task))]
    if problems:
        more = f"; and {counted(len(problems) - 3, 'more task')}" if len(problems) > 3 else ""
        spec = shlex.quote(str(folder.path / "run.json"))
        raise RunError(
            f"the heads of {folder.path} do not fit its data any more: {'; '.join(problems[:3])}{more}. "
            f"Restore the data, or start a new run: sidetune-run --spec {spec}"
        )


def _other_outputs(folder: RunFolder, task: Task) -> str:
    """How a task's outputs differ from its head's, in a sentence; empty if they fit."""
    recorded, now = _recorded_outputs(folder, task), task.outputs
    if recorded is None:
        return ""
    new = [name for name in now.names if name not in recorded.names]
    gone = [name for name in recorded.names if name not in now.names]
    if None not in (recorded.size, now.size) and recorded.size != now.size:
        names = [
            *([f"{shorten(new)} {'is' if len(new) == 1 else 'are'} new"] if new else []),
            *([f"{shorten(gone)} {'is' if len(gone) == 1 else 'are'} gone"] if gone else []),
        ]
        listed = f" ({', '.join(names)})" if recorded.names and now.names and names else ""
        return f"task {task.id} had {recorded.size} outputs and has {now.size}{listed}"
    moved = [name for name in now.names if _moved(name, recorded.names, now.names)]
    if moved:
        return f"classes of task {task.id} are in another order, such as {shorten(moved)}"
    return ""


def _moved(name: str, before: Sequence[str], now: Sequence[str]) -> bool:
    return before.count(name) == now.count(name) == 1 and before.index(name) != now.index(name)


def _recorded_outputs(folder: RunFolder, task: Task) -> Outputs | None:
    """The outputs on a task's card; None where there is no card, as in runs of earlier versions."""
    if isinstance(task, CardTask):
        return None
    try:
        return read_cards(folder, [task.id])[task.id].outputs
    except RunError:
        return None


def _tasks(ids: Sequence[str]) -> str:
    return f"task{'s' if len(ids) > 1 else ''} {shorten(list(ids))}"


def _extend_command(
    folder: RunFolder, about: Mapping[str, Any], env: ResolvedComponent, tasks: Sequence[str]
) -> str:
    """What adds tasks to a run, with the options of the env that the user has set."""
    if env.given is not None:
        return f"sidetune_core.extend({str(folder.path)!r}, tasks=[{', '.join(tasks)}])"
    asked = about.get("asked")
    own = asked.get("env") if isinstance(asked, Mapping) else None
    options = own.get("options") if isinstance(own, Mapping) else None
    words = ["sidetune-run", "--extend", str(folder.path), "--env", env.choice]
    for name, value in (options if isinstance(options, Mapping) else {}).items():
        words += _words(name, value)
    trust = ["--trust-local-code"] if env.names_code else []
    return shlex.join([*words, "--tasks", *tasks, *trust])


def _words(name: str, value: Any) -> Iterator[str]:
    option = name.replace("_", "-")
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _words(f"{name}.{key}", entry)
    elif isinstance(value, bool):
        table, _, last = f"env.{option}".rpartition(".")
        yield f"--{table}.{last}" if value else f"--{table}.no-{last}"
    elif value is not None:
        entries = value if isinstance(value, list | tuple) else [value]
        yield from (f"--env.{option}", *map(str, entries))
