"""Checkpoints: one after each task, and one within the current task, which is replaced as training proceeds.

A checkpoint after a task is ``after-002.safetensors``, the learner's tensors under their own names, and
``after-002.json``, the position of the run. The checkpoint within a task is one file, ``within.safetensors``,
with its JSON in the header, so that it is replaced atomically. Both contain a SHA-256 over their whole
content: a truncated or altered file is detected and not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import attrs
import safetensors
import torch
from torch import Tensor, nn

from sidetune_core import strict_json
from sidetune_core.config.identity import Identity, read_identity
from sidetune_core.errors import RunError, WeightsError
from sidetune_core.files import read_text
from sidetune_core.hashing import fingerprint
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.nested_state import flatten, tensor_names, unflatten
from sidetune_core.storage.run_folder import Marks
from sidetune_core.storage.weights import fill, read_tensors, write_tensors

MID_TASK = "within.safetensors"

TASK_STATES = "task_states"
"""Key of the state of tasks in the JSON, and the beginning of the names of its tensors."""


@attrs.frozen(eq=False)
class MidTaskState:
    """A position within the training of a task, or of several that are trained jointly."""

    tasks: list[str]
    step: int
    """Steps taken so far."""
    before: dict[str, str]
    """Digests of all tensors before training, by name."""
    recent: list[Tensor] = attrs.field(factory=list)
    """Losses of the steps since the last log line."""
    optimizer: dict[int, dict[str, Any]] | None = None
    """The optimiser's state of each parameter, by index; None after the last step."""
    random: dict[str, Any] | None = None
    """See `seeding.random_states`; None after the last step."""


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


def save(
    folder: Path,
    learner: nn.Module,
    done: Sequence[str],
    marks: Marks,
    tasks: Mapping[str, Any],
    identity: Identity | None = None,
) -> Path:
    """Write the checkpoint after the tasks `done`. Its JSON is written last: a checkpoint that has it is
    complete.

    Raises:
        WriteError: the folder is not writable; earlier checkpoints stay.
        PluginError: the extra state of the learner, or the state of a task, has a type that cannot be saved.
    """
    state = learner.state_dict()
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    extra, more = flatten({key: value for key, value in state.items() if key not in tensors})
    task_states, of_tasks = flatten(tasks, TASK_STATES)
    tensors |= more | of_tasks
    path = boundary(folder, len(done))
    position = {"done": list(done), "marks": marks, "identity": _plain(identity)}
    text = strict_json.dumps({**position, "extra": extra, TASK_STATES: task_states})
    with writing(path):
        write_tensors(path, tensors)
        write_text(path.with_suffix(".json"), f'{{"state": {text}, "sha256": "{_digest(text, tensors)}"}}\n')
    return path


def save_mid_task(
    folder: Path,
    learner: nn.Module,
    done: Sequence[str],
    marks: Marks,
    tasks: Mapping[str, Any],
    identity: Identity | None,
    mid_task: MidTaskState,
) -> Path:
    """Replace the checkpoint within a task, which follows the tasks `done`.

    Raises:
        WriteError: the folder is not writable; the earlier one stays.
        PluginError: the extra state of the learner, or the state of a task, has a type that cannot be saved.
    """
    values = {"learner": learner.state_dict(), "within": attrs.asdict(mid_task, recurse=False)}
    plain, tensors = flatten(values)
    task_states, of_tasks = flatten(tasks, TASK_STATES)
    tensors |= of_tasks
    path = folder / MID_TASK
    position = {"done": list(done), "marks": marks, "identity": _plain(identity)}
    text = strict_json.dumps({**position, "values": plain, TASK_STATES: task_states})
    with writing(path):
        write_tensors(path, tensors, {"state": text, "sha256": _digest(text, tensors)})
    return path


def delete_mid_task(folder: Path) -> None:
    """Delete the checkpoint within a task, which is finished."""
    with writing(folder / MID_TASK):
        (folder / MID_TASK).unlink(missing_ok=True)


def find(folder: Path, warning: Callable[[str], None]) -> Checkpoint | None:
    """The latest complete checkpoint, or None at the start of a run; `warning` gets a line for each damaged
    one.

    Raises:
        RunError: one cannot be read at present, which does not mean that it is damaged.
    """
    mid_task = _attempt(folder / MID_TASK, _read_mid_task, warning) if (folder / MID_TASK).exists() else None
    for number in _numbers(folder, "after-*"):
        if mid_task is not None and number <= len(mid_task.done):
            break
        checkpoint = _attempt(boundary(folder, number), _read_boundary, warning)
        if checkpoint is not None:
            return checkpoint
    return mid_task


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


def recorded_identity(path: Path) -> Identity | None:
    """The identity in the JSON of a checkpoint after a task, without reading its tensors; None where it
    cannot be read or has none."""
    try:
        return read_identity(_position(path).get("identity"))
    except TypeError:
        return None


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
    """A checkpoint after a task.

    Raises:
        WeightsError: its tensors are missing or damaged.
        RunError: its JSON is missing or damaged.
    """
    try:
        return _read_boundary(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"the checkpoint {path} cannot be used: {error}") from error


def parts(path: Path) -> list[str]:
    """The modules that can be exported from a checkpoint: ``base``, ``heads.t0``, ``sides.t0``, …"""
    with safetensors.safe_open(path, framework="pt") as file:
        keys = [key for key in list(file.keys()) if "/" not in key]  # others are of nested state
    names = {key.split(".")[0] for key in keys} | {
        ".".join(key.split(".")[:2]) for key in keys if key.count(".") > 1
    }
    return sorted(names)


def read_part(path: Path, part: str) -> dict[str, torch.Tensor]:
    """The tensors of a module under its own keys.

    Raises:
        RunError: the checkpoint has no such module.
    """
    prefix = part + "."
    tensors = {
        key.removeprefix(prefix): value for key, value in read_tensors(path).items() if key.startswith(prefix)
    }
    if not tensors:
        raise RunError(f"{path} has no module '{part}'; it has {', '.join(parts(path))}")
    return tensors


def _numbers(folder: Path, pattern: str) -> list[int]:
    """The numbers in the names of checkpoints after a task, the largest first."""
    names = (path.stem.removeprefix("after-") for path in folder.glob(pattern))
    return sorted({int(name) for name in names if name.isdecimal()}, reverse=True)


def _attempt(
    path: Path, read: Callable[[Path], Checkpoint], warning: Callable[[str], None]
) -> Checkpoint | None:
    _check_readable(path)
    try:
        return read(path)
    except FileNotFoundError as error:
        warning(f"cannot use {path}: {error.filename} is missing")
    except WeightsError as error:
        cause = error.__cause__  # damage is a SafetensorError
        if isinstance(cause, MemoryError | OSError | RuntimeError):
            reason = "not enough memory" if isinstance(cause, MemoryError) else cause
            raise RunError(f"cannot read {path}: {reason}; nothing was changed") from error
        warning(f"{error}; it is ignored")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        also = f" or {path.stem}.json" if path.name != MID_TASK else ""
        warning(f"{path}{also} is damaged ({error}); it is ignored")
    return None


def _check_readable(path: Path) -> None:
    """Check that the operating system lets us read the files of a checkpoint that exist.

    Raises:
        RunError: no permission, too many open files, or a broken disk.
    """
    for file in (path, path.with_suffix(".json")):
        try:
            with file.open("rb"):
                pass
        except (FileNotFoundError, IsADirectoryError):
            continue
        except OSError as error:
            raise RunError(f"cannot read {file}: {error.strerror or error}; nothing was changed") from error


def _read_boundary(path: Path) -> Checkpoint:
    about = json.loads(read_text(path.with_suffix(".json")))
    path.stat()  # raises FileNotFoundError
    tensors = read_tensors(path)
    values = about["state"]
    _check(json.dumps(values), tensors, about["sha256"])
    extra = unflatten(values["extra"], tensors)
    inner = tensor_names(values["extra"]) | tensor_names(values.get(TASK_STATES))
    state = {key: value for key, value in tensors.items() if key not in inner} | extra
    return Checkpoint(
        path,
        values["done"],
        state,
        values["marks"],
        tasks=_task_states(values, tensors),
        identity=read_identity(values.get("identity")),
    )


def _read_mid_task(path: Path) -> Checkpoint:
    tensors = read_tensors(path)
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    _check(about["state"], tensors, about["sha256"])
    about = json.loads(about["state"])
    values = unflatten(about["values"], tensors)
    return Checkpoint(
        path,
        about["done"],
        values["learner"],
        about["marks"],
        MidTaskState(**values["within"]),
        _task_states(about, tensors),
        read_identity(about.get("identity")),
    )


def _task_states(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """The state of the tasks by id, in the JSON and the tensors of a checkpoint of any version."""
    if TASK_STATES not in values:
        return cast(Mapping[str, Any], values.get("tasks", {}))
    return cast(Mapping[str, Any], unflatten(values[TASK_STATES], tensors))


def _plain(identity: Identity | None) -> dict[str, Any] | None:
    return identity.to_json() if identity is not None else None


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{text}\n{fingerprint(tensors)}".encode()).hexdigest()


def _check(text: str, tensors: Mapping[str, Tensor], digest: str) -> None:
    if _digest(text, tensors) != digest:
        raise ValueError("its SHA-256 differs from the recorded one")
