"""What can be served: the tasks of a run folder or of an adapter, with the state of their learner."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from sidetune_core import hashing
from sidetune_core.assembly.cards import read_cards
from sidetune_core.assembly.objects import require_network
from sidetune_core.assembly.restore import read_resolved
from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.certificate.record import TaskSketch
from sidetune_core.certificate.sketches import sketched_card
from sidetune_core.config.given import as_objects
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.config.spec import Trust
from sidetune_core.errors import CheckpointWarning, RunError, WeightsError, shorten
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.storage import checkpoint
from sidetune_core.storage.checkpoint import Checkpoint
from sidetune_core.storage.run_files import CARDS
from sidetune_core.storage.run_folder import RunFolder, resume_command

ATTEMPTS = 5
"""How often a checkpoint is read that another process replaces meanwhile."""

PAUSE = 0.2
"""Seconds between two attempts."""


@attrs.frozen(eq=False)
class Trained:
    """Tasks that a learner was trained on."""

    resolved: ResolvedRun
    cards: Mapping[str, TaskCard]
    """By task, in the order in which the learner is started on them."""
    state: Mapping[str, Any]
    """The state dict of a learner that has been started on exactly these tasks."""
    task_states: Mapping[str, Any]
    """The tasks' own states by id (see `HasState`); tasks without one are absent."""
    source: str
    """Where it was read, for messages."""
    tasks: tuple[str, ...]
    """Those that may be asked for; the others only serve these."""


def read_run(folder: RunFolder, trust_local_code: Trust = False, base: nn.Module | None = None) -> Trained:
    """The tasks that a run has finished, from its newest complete checkpoint. Takes no lock, writes nothing.

    Args:
        folder: a run, which may be under way.
        trust_local_code: import code that ``run.json`` names.
        base: the network that the run was given in Python, with whatever weights; None if it was given none.

    Raises:
        OptionError: the run was given a network, and `base` is none.
        UntrustedCode: ``run.json`` names code, without `trust_local_code`.
        RunError: no task is finished, no checkpoint can be read, a card was changed, or tasks of a run of an
            earlier version cannot be restored without their data.
        PluginError, OptionError: a component is not installed, or no longer has these options.
    """
    resolved = read_resolved(folder, trust_local_code, as_objects(base))
    require_network(resolved, f"sidetune_core.load({str(folder.path)!r}")
    newest = _read_newest(folder)
    cards = _read_cards(folder, newest.done, resolved)
    _check_cards(folder, cards)
    return Trained(
        resolved=resolved,
        cards=cards,
        state=newest.state,
        task_states=newest.tasks,
        source=str(folder.path),
        tasks=tuple(newest.done),
    )


def _read_newest(folder: RunFolder) -> Checkpoint:
    """The newest checkpoint after a task; read again where another process replaces files meanwhile.

    Raises:
        RunError: there is none, or none can be read.
    """
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE if attempt else 0)
        newest, failures = _try_newest(folder)
        if not failures:
            break
    if newest is None and failures:
        raise RunError(f"no checkpoint of {folder.path} can be read: {shorten(failures, 2)}")
    if newest is None:
        raise RunError(f"{folder.path} has finished no task, so there is nothing to load yet")
    if failures:
        message = f"{newest.path} is used instead of a newer one: {shorten(failures, 2)}"
        warnings.warn(message, CheckpointWarning, stacklevel=4)
    return newest


def _try_newest(folder: RunFolder) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint after a task that can be read, and why newer ones cannot."""
    failures: list[str] = []
    for count in sorted(folder.boundaries, reverse=True):
        try:
            return checkpoint.read(checkpoint.boundary(folder.checkpoints, count)), failures
        except (RunError, WeightsError) as error:
            failures.append(str(error))
    return None, failures


def _read_cards(folder: RunFolder, tasks: Sequence[str], resolved: ResolvedRun) -> Mapping[str, TaskCard]:
    """The cards of tasks; in runs of earlier versions, which have none, those of classification tasks.

    Raises:
        RunError: a card is damaged, or missing for a task that is not plain classification.
    """
    former = [task for task in tasks if not (folder.path / CARDS / f"{task}.json").is_file()]
    if not former:
        return read_cards(folder, tasks)
    sketches = _read_sketches(folder)
    if missing := [task for task in former if task not in sketches]:
        command = resume_command(folder.path, resolved.needs_trust)
        raise RunError(
            f"{folder.path} was made by an earlier version, without cards of its tasks ({CARDS}/), and the "
            f"heads of {shorten(missing)} cannot be rebuilt without one. Write the cards where the data of "
            f"the run is; nothing is trained again: {command}"
        )
    env, about = resolved.components["env"].choice, folder.read_json("run.json")
    listed = {str(one.get("id")): one.get("metric") for one in about.get("tasks", ())}
    default, better = str(about.get("metric", "accuracy")), about.get("higher_is_better") is not False
    cards = read_cards(folder, [task for task in tasks if task not in former]) | {
        task: sketched_card(task, sketches[task], env, str(listed.get(task) or default), better)
        for task in former
    }
    return {task: cards[task] for task in tasks}


def _check_cards(folder: RunFolder, tasks: Iterable[str]) -> None:
    """Check cards against the certificate, if there is one that lists them.

    Raises:
        RunError: a card is not what it was when its task was trained.
    """
    certificate = read_certificate(folder)
    files = certificate.files if certificate is not None else {}
    for name in (f"{CARDS}/{task}.json" for task in tasks):
        path = folder.path / name
        if name in files and path.is_file() and hashing.file_digest(path) != files[name]:
            raise RunError(
                f"{path} was changed after the task was trained; restore it "
                f"(details: sidetune verify {shlex.quote(str(folder.path))})"
            )


def _read_sketches(folder: RunFolder) -> dict[str, TaskSketch]:
    """What the certificate has of classification tasks, by id."""
    certificate = read_certificate(folder)
    records = certificate.tasks if certificate is not None else []
    return {record.id: record.sketch for record in records if record.sketch is not None}
