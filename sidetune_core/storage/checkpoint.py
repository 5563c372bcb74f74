"""Where a run can go on: checkpoints at task boundaries, and one state within a task that is replaced again and again.

A checkpoint is ``after-002.safetensors``, the learner's tensors under their own names, and ``after-002.json``, how far the run was. The
state within a task is one file, ``within.safetensors``, with its JSON in the header, so that it is replaced in one go. Both have a
SHA-256 over all that they say: a file that was cut off, or in which one bit has changed, is known and never used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import safetensors
import torch
from torch import Tensor, nn

from sidetune_core.errors import RunError, WeightsError
from sidetune_core.hashing import fingerprint
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.nested_state import flatten, tensor_names, unflatten
from sidetune_core.storage.run_folder import Marks
from sidetune_core.storage.weights import fill, read_tensors, write_tensors

MID_TASK = "within.safetensors"


@attrs.frozen(eq=False)
class MidTaskState:
    """The middle of a task, or of several that are learnt at once."""

    tasks: list[str]
    step: int
    """Steps taken; the next one has this number."""
    before: dict[str, str]
    """Digest of every tensor as it was when training began."""
    recent: list[Tensor] = attrs.field(factory=list)
    """Losses that have not been looked at yet."""
    optimizer: dict[int, dict[str, Any]] | None = None
    """What the optimiser holds for each parameter, by number; None after the last step."""
    random: dict[str, Any] | None = None
    """See `seeding.random_states`; None after the last step."""


@attrs.frozen(eq=False)
class Checkpoint:
    """A state that is whole."""

    path: Path
    done: list[str]
    """Ids of the tasks learnt before."""
    state: Mapping[str, Any]
    """The learner's state dict."""
    marks: Marks
    """How far the lines of the run folder went."""
    mid_task: MidTaskState | None = None
    tasks: Mapping[str, Any] = attrs.field(factory=dict)
    """What each task holds itself, by id (see `Task.state`)."""

    def __str__(self) -> str:
        if self.mid_task is None:
            return f"after task {self.done[-1]}"
        return f"after step {self.mid_task.step} of task {self.mid_task.tasks[-1]}"

    def load(self, learner: nn.Module) -> None:
        """Fill a learner in which the same tasks have been started.

        Raises:
            WeightsError: it is another learner's.
        """
        fill(learner, self.state, str(self.path))


def save(
    folder: Path, learner: nn.Module, done: Sequence[str], marks: Marks, tasks: Mapping[str, Any]
) -> Path:
    """Write the state after the tasks `done`; the JSON comes last, so that a checkpoint with one is whole. `tasks`: see `Checkpoint.tasks`.

    Raises:
        WriteError: it cannot be written; what was there before stays.
        PluginError: the learner's extra state is of a kind that no file takes.
    """
    state = learner.state_dict()
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    extra, more = flatten({key: value for key, value in state.items() if key not in tensors})
    tensors |= more
    path = boundary(folder, len(done))
    text = json.dumps({"done": list(done), "marks": marks, "extra": extra, "tasks": tasks})
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
    mid_task: MidTaskState,
) -> Path:
    """Write the state in the middle of a task that comes after the tasks `done`, in place of the one before.

    Raises:
        WriteError: it cannot be written; the one before stays.
        PluginError: the learner's extra state is of a kind that no file takes.
    """
    values = {"learner": learner.state_dict(), "within": attrs.asdict(mid_task, recurse=False)}
    plain, tensors = flatten(values)
    path = folder / MID_TASK
    text = json.dumps({"done": list(done), "marks": marks, "values": plain, "tasks": tasks})
    with writing(path):
        write_tensors(path, tensors, {"state": text, "sha256": _digest(text, tensors)})
    return path


def delete_mid_task(folder: Path) -> None:
    """The task has been learnt: its state within is of no more use."""
    with writing(folder / MID_TASK):
        (folder / MID_TASK).unlink(missing_ok=True)


def find(folder: Path, warning: Callable[[str], None]) -> Checkpoint | None:
    """The newest state that is whole, or None for the start; `warning` is told of every newer one that is not."""
    mid_task = _attempt(folder / MID_TASK, _read_mid_task, warning) if (folder / MID_TASK).exists() else None
    numbers = {
        int(path.stem.removeprefix("after-"))
        for path in folder.glob("after-*")
        if path.stem.removeprefix("after-").isdigit()
    }
    for number in sorted(numbers, reverse=True):
        if mid_task is not None and number <= len(mid_task.done):
            break
        found = _attempt(boundary(folder, number), _read_boundary, warning)
        if found is not None:
            return found
    return mid_task


def check_version(folder: Path) -> None:
    """See that a run can be gone on with, before anything in its folder is touched.

    Raises:
        RunError: its checkpoints do not say how far the lines of the folder went, as those of an earlier version.
    """
    path = latest(folder)
    if path is not None:
        with suppress(ValueError):  # damage is told by `find`
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            if isinstance(about, dict) and {"done", "sha256"} <= about.keys():
                raise RunError(
                    f"{path} was written by an earlier version of sidetune, whose runs cannot be gone on with; begin a new run"
                )


def boundary(folder: Path, count: int) -> Path:
    """Where the tensors are, or would be, after `count` tasks."""
    return folder / f"after-{count:03d}.safetensors"


def latest(folder: Path) -> Path | None:
    """The tensors of the newest checkpoint that was written to its end, or None; its content is not looked at."""
    whole = sorted(path for path in folder.glob("after-*.json") if path.with_suffix(".safetensors").is_file())
    return whole[-1].with_suffix(".safetensors") if whole else None


def read(path: Path) -> Checkpoint:
    """A checkpoint at a task boundary.

    Raises:
        WeightsError: its tensors are missing or damaged.
        RunError: its JSON is, or the two are not what was written.
    """
    try:
        return _read_boundary(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"the checkpoint {path} cannot be used: {error}") from error


def parts(path: Path) -> list[str]:
    """What can be exported from a checkpoint: ``base``, ``heads.t0``, ``sides.t0``, …"""
    with safetensors.safe_open(path, framework="pt") as file:
        keys = list(file.keys())
    found = {key.split(".")[0] for key in keys} | {
        ".".join(key.split(".")[:2]) for key in keys if key.count(".") > 1
    }
    return sorted(found)


def read_part(path: Path, part: str) -> dict[str, torch.Tensor]:
    """The tensors of one part, under its own keys.

    Raises:
        RunError: the checkpoint has no such part.
    """
    prefix = part + "."
    tensors = {
        key.removeprefix(prefix): value for key, value in read_tensors(path).items() if key.startswith(prefix)
    }
    if not tensors:
        raise RunError(f"{path} has no part '{part}'; it has {', '.join(parts(path))}")
    return tensors


def _attempt(
    path: Path, read: Callable[[Path], Checkpoint], warning: Callable[[str], None]
) -> Checkpoint | None:
    try:
        return read(path)
    except FileNotFoundError as error:
        warning(f"{path} cannot be used: {error.filename} is missing")
    except WeightsError as error:
        warning(f"{error}; it is not used")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        also = f", or {path.stem}.json beside it," if path.name != MID_TASK else ""
        warning(f"{path}{also} is damaged ({error}); it is not used")
    return None


def _read_boundary(path: Path) -> Checkpoint:
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    path.stat()  # a missing file is told as such
    tensors = read_tensors(path)
    values = about["state"]
    _check(json.dumps(values), tensors, about["sha256"])
    extra = unflatten(values["extra"], tensors)
    inner = tensor_names(values["extra"])
    state = {key: value for key, value in tensors.items() if key not in inner} | extra
    return Checkpoint(path, values["done"], state, values["marks"], tasks=values.get("tasks", {}))


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
        about.get("tasks", {}),
    )


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{text}\n{fingerprint(tensors)}".encode()).hexdigest()


def _check(text: str, tensors: Mapping[str, Tensor], digest: str) -> None:
    if _digest(text, tensors) != digest:
        raise ValueError("it has changed since it was written")
