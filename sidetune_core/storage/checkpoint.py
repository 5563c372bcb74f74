"""Checkpoints: one after each task, and one within the current task, which is replaced as training proceeds.

A checkpoint after a task is ``after-002.safetensors``, the tensors of the learner that differ from those of
the files before it (see `chain`), and ``after-002.json``, the position of the run. The checkpoint within a
task is one file, ``within.safetensors``, with its JSON in the header, so that it is replaced atomically.
SHA-256 digests cover all of their content: a truncated or altered file is detected and not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from sidetune_core import hashing
from sidetune_core.config.identity import Identity, read_identity
from sidetune_core.errors import RunError
from sidetune_core.hashing import fingerprint
from sidetune_core.io.files import read_text
from sidetune_core.storage.atomic import writing
from sidetune_core.storage.chain import Chain
from sidetune_core.storage.chain_file import BASE, NAME, TASK_STATES, parse_step, text_digest
from sidetune_core.storage.checkpoint_content import Changes, Content, content_of_changes, make_content
from sidetune_core.storage.deltas import Delta, apply, difference, read_delta
from sidetune_core.storage.marks import Marks
from sidetune_core.storage.nested_state import flatten, unflatten
from sidetune_core.storage.tensor_files import opened, read_own
from sidetune_core.storage.unusable import WRONG_CONTENT, Unusable
from sidetune_core.storage.weights import fill, write_tensors

MID_TASK = "within.safetensors"


@attrs.frozen(eq=False)
class MidTaskState:
    """A position within the training of a task, or of several that are trained jointly."""

    tasks: list[str]
    step: int
    """Steps taken so far."""
    before: Mapping[str, str]
    """Digests of all tensors before training, by name."""
    recent: list[Tensor] = attrs.field(factory=list)
    """Losses of the steps since the last log line."""
    optimizer: dict[int, dict[str, Any]] | None = None
    """The optimiser's state of each parameter, by index; None after the last step."""
    random: dict[str, Any] | None = None
    """See `seeding.random_states`; None after the last step."""
    within: dict[str, Any] | None = None
    """See `training.within_task` and `training.single_pass`; None, and not written, for a run that needs
    neither."""


@attrs.frozen(eq=False)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    done: list[str]
    """Ids of the tasks that are finished."""
    state: Mapping[str, Any]
    """The learner's state dict."""
    marks: Marks
    """Sizes of the run folder's ``.jsonl`` files then."""
    mid_task: MidTaskState | None = None
    tasks: Mapping[str, Any] = attrs.field(factory=dict)
    """State of the tasks themselves, by id (see `Task.state`)."""
    identity: Identity | None = None
    """Of the run when the checkpoint was written; None in checkpoints of earlier versions."""

    def __str__(self) -> str:
        if self.mid_task is None:
            return f"after task {self.done[-1]}"
        return f"after step {self.mid_task.step} of task {self.mid_task.tasks[-1]}"

    def load(self, learner: nn.Module) -> None:
        """Load the state into a learner in which the same tasks have been started.

        Raises:
            WeightsError: the state is that of another learner.
        """
        fill(learner, self.state, str(self.path))


_Found = tuple[Checkpoint, Chain]
"""A checkpoint, and the chain that the next checkpoint after a task continues."""


def save(
    folder: Path,
    learner: nn.Module | Changes,
    done: Sequence[str],
    marks: Marks,
    tasks: Mapping[str, Any],
    identity: Identity | None = None,
    chain: Chain | None = None,
    base: Collection[str] = (),
    digests: Mapping[str, str] | None = None,
) -> Path:
    """Write the checkpoint after the tasks `done`. Its JSON is written last: a checkpoint that has it is
    complete.

    Args:
        folder: of the checkpoints.
        learner: whose state is saved, or what may differ in it from the end of `chain`.
        done: ids of the tasks that are finished.
        marks: of the run folder.
        tasks: state of the tasks by id.
        identity: of the run.
        chain: the files that this one follows, to which it is appended; None to read them from the folder.
        base: names of tensors that go into a file of their own if this is the first checkpoint.
        digests: of the learner's tensors, if they are known.

    Raises:
        WriteError: the folder is not writable; earlier checkpoints stay.
        PluginError: the extra state of the learner, or the state of a task, has a type that cannot be saved.
    """
    content = _content(learner, tasks, done, marks, identity, digests)
    chain = chain if chain is not None else _chain_before(folder, done)
    path = boundary(folder, len(done))
    with writing(path):
        if not chain.is_newest:
            _delete_from(folder, len(done))
        if not chain.steps:
            _delete(folder / f"{BASE}.safetensors")
        first = {name: digest for name, digest in content.digests.items() if name in base}
        if first and not chain.steps:
            keys = [key for key in content.keys if key in first]
            chain.write(BASE, Content(content.tensors, first, {}, {}, keys))
        chain.write(path.stem, content)
        chain.is_newest = True
    return path


def save_mid_task(
    folder: Path,
    learner: nn.Module | Changes,
    done: Sequence[str],
    marks: Marks,
    tasks: Mapping[str, Any],
    identity: Identity | None,
    mid_task: MidTaskState,
    chain: Chain | None = None,
    touched: Collection[str] | None = None,
) -> None:
    """Replace the checkpoint within a task, which follows the tasks `done`.

    Args:
        folder, learner, done, marks, tasks, identity, chain: see `save`.
        mid_task: the position within the task.
        touched: names of the tensors whose digests in `mid_task.before` may differ from those of the chain,
            in the order of the state dict; None for all.

    Raises:
        WriteError: the folder is not writable; the earlier one stays.
        PluginError: the extra state of the learner, or the state of a task, has a type that cannot be saved.
    """
    content = _content(learner, tasks, done, marks, identity)
    chain = chain if chain is not None else _chain_before(folder, [*done, ""])
    path = folder / MID_TASK
    before = _before(chain, mid_task.before, touched).to_json()
    values = attrs.asdict(attrs.evolve(mid_task, before={}), recurse=False)
    if mid_task.within is None:
        del values["within"]
    plain, inner = flatten(values, "within")
    step, text = chain.plan(path, content, within=plain, before=before, within_tensors=hashing.digests(inner))
    tensors = {name: content.tensors[name] for name in step.tensors.changed} | inner
    with writing(path):
        write_tensors(path, tensors, {"state": text, "sha256": step.sha256})


def _before(chain: Chain, before: Mapping[str, str], touched: Collection[str] | None) -> Delta[str]:
    """The digests before a stage, as a difference to those of a chain."""
    if touched is None:
        return difference(chain.digests, before)
    newest = chain.tensors.newest
    changed = {name: before[name] for name in touched if name in before and newest.get(name) != before[name]}
    return Delta(changed, sorted(name for name in touched if name not in before and name in newest))


def _content(
    learner: nn.Module | Changes,
    tasks: Mapping[str, Any],
    done: Sequence[str],
    marks: Marks,
    identity: Identity | None,
    digests: Mapping[str, str] | None = None,
) -> Content:
    if isinstance(learner, Changes):
        return content_of_changes(learner, tasks, done, marks, _plain(identity))
    return make_content(learner.state_dict(), tasks, done, marks, _plain(identity), digests)


def _chain_before(folder: Path, done: Sequence[str]) -> Chain:
    """The chain that a checkpoint after the tasks `done` continues: that of the newest one before it."""
    for number in _numbers(folder, "after-*.json"):
        if number < len(done):
            with suppress(Unusable):
                chain = Chain.open(boundary(folder, number))
                if chain.done == list(done[: len(chain.done)]):
                    return chain
    return Chain(folder)


def _delete_from(folder: Path, count: int) -> None:
    """Delete checkpoints after `count` tasks and more, which a new one replaces: those after it would follow
    another file. Their JSON goes first, so that none is taken for complete."""
    for number in _numbers(folder, "after-*"):
        if number >= count:
            _delete(boundary(folder, number))


def _delete(path: Path) -> None:
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def delete_mid_task(folder: Path) -> None:
    """Delete the checkpoint within a task, which is finished."""
    with writing(folder / MID_TASK):
        (folder / MID_TASK).unlink(missing_ok=True)


def find(folder: Path, warning: Callable[[str], None]) -> Checkpoint | None:
    """The latest complete checkpoint, or None at the start of a run; `warning` gets a line for each file that
    is damaged.

    Raises:
        RunError: one cannot be read at present, which does not mean that it is damaged.
    """
    return find_with_chain(folder, warning)[0]


def find_with_chain(folder: Path, warning: Callable[[str], None]) -> tuple[Checkpoint | None, Chain]:
    """`find`, and the chain that the next checkpoint after a task continues."""
    unusable = _UnusableFiles()
    mid_task = unusable.attempt(folder / MID_TASK, _read_mid_task) if (folder / MID_TASK).exists() else None
    found = mid_task
    for number in _numbers(folder, "after-*"):
        if mid_task is not None and number <= len(mid_task[0].done):
            break
        found = unusable.attempt(boundary(folder, number), _read_boundary)
        if found is not None:
            break
    unusable.report(warning)
    return found if found is not None else (None, Chain(folder))


class _UnusableFiles:
    """Collects the files because of which checkpoints cannot be read."""

    def __init__(self) -> None:
        self._reasons: dict[Path, str] = {}
        self._dependents: dict[Path, list[str]] = {}

    def attempt(self, path: Path, read: Callable[[Path], _Found]) -> _Found | None:
        """What `read` returns; None if a file is missing or damaged."""
        try:
            return read(path)
        except Unusable as error:
            self._reasons.setdefault(error.path, str(error))
            if error.path.stem != path.stem:
                dependent = path.name if path.name == MID_TASK else path.stem
                self._dependents.setdefault(error.path, []).append(dependent)
        return None

    def report(self, warning: Callable[[str], None]) -> None:
        """A line for each file, with the checkpoints that depend on it."""
        for path, reason in self._reasons.items():
            dependents = sorted(self._dependents.get(path, ()))
            warning(f"{reason}; {_ignored(dependents)}")


def _ignored(dependents: Sequence[str]) -> str:
    if not dependents:
        return "it is ignored"
    are, depend = ("is", "depends") if len(dependents) == 1 else ("are", "depend")
    return f"it is ignored, and so {are} {', '.join(dependents)}, which {depend} on it"


def check_version(folder: Path) -> None:
    """Check that a run can be resumed, before anything in its folder is changed.

    Raises:
        RunError: its checkpoints have the format of a version before 0.1.
    """
    path = latest(folder)
    if path is not None:
        with suppress(ValueError):  # `find` reports damaged checkpoints
            about = json.loads(read_text(path.with_suffix(".json")))
            if isinstance(about, dict) and {"done", "sha256"} <= about.keys():
                raise RunError(
                    f"{path} was written by an earlier version of sidetune, whose runs cannot be resumed; "
                    "start a new run"
                )


def boundary(folder: Path, count: int) -> Path:
    """The path of the tensors of the checkpoint after `count` tasks."""
    return folder / f"after-{count:03d}.safetensors"


def latest(folder: Path) -> Path | None:
    """The path of the tensors of the latest checkpoint after a task, or None. Its content is not checked."""
    paths = (boundary(folder, number) for number in _numbers(folder, "after-*.json"))
    return next((path for path in paths if path.is_file()), None)


def recorded_identity(path: Path, chain: Chain | None = None) -> Identity | None:
    """The identity of a run at a checkpoint after a task, without reading its tensors; None where it cannot
    be read or has none.

    Args:
        path: of the checkpoint's tensors.
        chain: files that have been read, perhaps with this one.
    """
    index = chain.index(path.stem) if chain is not None else None
    try:
        if chain is not None and index is not None:
            return read_identity(chain.identity_at(index))
        position = _position(path)
        holder = str(position.get("identity_in", ""))
        if NAME.fullmatch(holder):
            position = _position(path.with_name(f"{holder}.safetensors"))
        return read_identity(position.get("identity"))
    except TypeError:
        return None


def tensors_at(path: Path, names: Iterable[str], chain: Chain) -> dict[str, Tensor]:
    """Tensors as they were at a checkpoint after a task, without those that cannot be read any more.

    Args:
        path: of the checkpoint's tensors.
        names: of tensors.
        chain: files that have been read, perhaps with this one.
    """
    try:
        index = chain.index(path.stem)
        if index is None:
            chain = Chain.open(path)
            index = chain.last
        existing = [name for name in names if chain.tensors.find(name, index) is not None]
        return chain.read(existing, index, dropped=True)
    except (Unusable, RunError):
        return {}


def has_mark(path: Path, name: str) -> bool:
    """Whether a checkpoint after a task has the hash of a file of the run folder."""
    marks = _position(path).get("marks")
    return isinstance(marks, Mapping) and name in marks


def _position(path: Path) -> Mapping[str, Any]:
    """The JSON of a checkpoint after a task, without reading its tensors; empty if it cannot be read."""
    try:
        position = json.loads(read_text(path.with_suffix(".json")))["state"]
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return position if isinstance(position, Mapping) else {}


def read(path: Path) -> Checkpoint:
    """A checkpoint after a task, with the state of the learner.

    Raises:
        RunError: a file that it consists of is missing or damaged, or cannot be read at present.
    """
    with _usable(path):
        return _read_boundary(path)[0]


def parts(path: Path) -> list[str]:
    """The modules that can be exported from a checkpoint: ``base``, ``heads.t0``, ``sides.t0``, …

    Raises:
        RunError: see `read`.
    """
    with _usable(path):
        keys = list(Chain.open(path).digests)
    names = {key.split(".")[0] for key in keys} | {
        ".".join(key.split(".")[:2]) for key in keys if key.count(".") > 1
    }
    return sorted(names)


def read_part(path: Path, part: str) -> dict[str, torch.Tensor]:
    """The tensors of a module under its own keys; the others are not read.

    Raises:
        RunError: the checkpoint has no such module, or cannot be read.
    """
    prefix = part + "."
    with _usable(path):
        chain = Chain.open(path)
        tensors = chain.read(key for key in chain.digests if key.startswith(prefix))
    if not tensors:
        raise RunError(f"{path} has no module '{part}'; it has {', '.join(parts(path))}")
    return {key.removeprefix(prefix): value for key, value in tensors.items()}


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Name the checkpoint that needs a file that is missing or damaged."""
    try:
        yield
    except Unusable as error:
        raise RunError(f"the checkpoint {path} cannot be used: {error}") from error


def _numbers(folder: Path, pattern: str) -> list[int]:
    """The numbers in the names of checkpoints after a task, the largest first."""
    names = (path.stem.removeprefix("after-") for path in folder.glob(pattern))
    return sorted({int(name) for name in names if name.isdecimal()}, reverse=True)


def _read_boundary(path: Path) -> _Found:
    chain = Chain.open(path)
    state, tasks = chain.state()
    return _checkpoint(path, chain, state, tasks), chain


def _checkpoint(
    path: Path,
    chain: Chain,
    state: Mapping[str, Any],
    tasks: Mapping[str, Any],
    mid_task: MidTaskState | None = None,
) -> Checkpoint:
    """The checkpoint that the last file of a chain describes."""
    marks = chain.steps[-1].marks
    try:
        return Checkpoint(path, chain.done, state, marks, mid_task, tasks, read_identity(chain.identity))
    except TypeError as error:
        raise Unusable(path.with_suffix(".json"), f"is damaged ({error})") from error


def _read_mid_task(path: Path) -> _Found:
    with opened(path) as file:
        header = file.metadata() or {}
    try:
        about = json.loads(header["about"])
        values = json.loads(about["state"])
        if "tensors" not in values:
            return _read_former_mid_task(path, about), _chain_before(path.parent, [*values["done"], ""])
        if text_digest(about["state"]) != about["sha256"]:
            raise ValueError("its SHA-256 differs from the recorded one")
        step = parse_step(path, values, about["sha256"])
        before, digests = read_delta(values["before"]), values["within_tensors"]
        chain = Chain(path.parent)
        if step.predecessor is not None:
            chain = Chain.open(path.with_name(f"{step.predecessor[0]}.safetensors"))
        extended = Chain(path.parent, [*chain.steps, step])
        state, tasks = extended.state()
        within = unflatten(values["within"], read_own(path, digests))
        mid_task = MidTaskState(**(within | {"before": apply(chain.digests, before)}))
        return _checkpoint(path, extended, state, tasks, mid_task), chain
    except WRONG_CONTENT as error:
        raise Unusable(path, f"is damaged ({error})") from error


def _read_former_mid_task(path: Path, about: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint within a task in the former layout, which has all tensors."""
    with opened(path) as file:
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    _check(about["state"], tensors, about["sha256"])
    values = json.loads(about["state"])
    within = unflatten(values["values"], tensors)
    return Checkpoint(
        path,
        values["done"],
        within["learner"],
        values["marks"],
        MidTaskState(**within["within"]),
        _task_states(values, tensors),
        read_identity(values.get("identity")),
    )


def _task_states(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """The state of the tasks by id, in the JSON and the tensors of a checkpoint of any version."""
    if TASK_STATES not in values:
        return cast(Mapping[str, Any], values.get("tasks", {}))
    return cast(Mapping[str, Any], unflatten(values[TASK_STATES], tensors))


def _plain(identity: Identity | None) -> Mapping[str, Any] | None:
    return identity.plain if identity is not None else None


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{text}\n{fingerprint(tensors)}".encode()).hexdigest()


def _check(text: str, tensors: Mapping[str, Tensor], digest: str) -> None:
    if _digest(text, tensors) != digest:
        raise ValueError("its SHA-256 differs from the recorded one")
