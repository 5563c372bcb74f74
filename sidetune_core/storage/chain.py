"""The chain of checkpoints: each file holds the tensors that are new, or differ from those before it.

The first file, ``base.safetensors``, has the tensors that existed before the first task and that training
on it left unchanged: the frozen base. ``after-001.safetensors`` adds what the first task needs besides, and
so forth. The JSON of a file names its tensors with their SHA-256, and its predecessor with that one's
SHA-256. Its own SHA-256 covers all of this, so that the last one covers the whole chain, although writing or
checking a file takes as long as its own tensors do.

In the former layout every checkpoint has all tensors. Such a file begins a chain, which newer ones continue.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import safetensors
from torch import Tensor

from sidetune_core import hashing
from sidetune_core.errors import RunError, shorten
from sidetune_core.io import strict_json
from sidetune_core.io.files import check_regular, read_text
from sidetune_core.storage.atomic import sync_folders, write_text
from sidetune_core.storage.deltas import (
    Delta,
    History,
    difference,
    find_insertions,
    order_to_json,
    read_delta,
    read_order,
)
from sidetune_core.storage.marks import Marks
from sidetune_core.storage.nested_state import flatten, tensor_names, unflatten
from sidetune_core.storage.weights import write_tensors

BASE = "base"
"""Name of the first file."""

NAME = re.compile(r"base|after-\d{3,9}")
"""Names of files that another one can follow."""

TASK_STATES = "task_states"
"""Key of the state of tasks in the JSON, and the beginning of the names of its tensors."""

WRONG_CONTENT = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What is raised where JSON is damaged, or of another form."""


class Unusable(Exception):
    """A file of a chain is missing, damaged, or follows another file than the one in the folder.

    Args:
        path: of the file.
        reason: ``is missing`` or ``is damaged (…)``.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path


@attrs.frozen(eq=False)
class Content:
    """What a checkpoint holds, apart from the files before it."""

    tensors: Mapping[str, Tensor]
    """Of the state dict, of extra state and of the state of tasks."""
    digests: Mapping[str, str]
    """Of `tensors`."""
    extra: Mapping[str, Any]
    """Extra state of modules by key (see `flatten`)."""
    task_states: Mapping[str, Any]
    """By id of a task."""
    keys: Sequence[str]
    """Of the state dict, in order."""
    done: Sequence[str] = ()
    """Ids of the tasks that are finished."""
    marks: Marks = attrs.field(factory=dict)
    identity: Mapping[str, Any] | None = None
    gone: Collection[str] | None = None
    """If `tensors` are only those that may differ from the file before: names that may have gone since. None
    if `tensors` are all."""


@attrs.frozen(eq=False)
class Changes:
    """What may differ in a learner from the newest checkpoint after a task."""

    tensors: Mapping[str, Tensor]
    """By key of the state dict, in its order; those that were touched, and those that are extra state."""
    digests: Mapping[str, str]
    """Of `tensors`, without those that are extra state."""
    gone: Collection[str]
    """Names that may have had a tensor, and have none of `tensors` now."""
    extra: Mapping[str, Any]
    """All extra state of modules, by key."""
    keys: Sequence[str]
    """Of the complete state dict, in order."""


def make_content(
    state: Mapping[str, Any],
    tasks: Mapping[str, Any],
    done: Sequence[str],
    marks: Marks,
    identity: Mapping[str, Any] | None,
    known: Mapping[str, str] | None = None,
) -> Content:
    """The content of a checkpoint from a state dict and the state of tasks.

    Args:
        state: of the learner.
        tasks: state of the tasks by id.
        done: ids of the tasks that are finished.
        marks: of the run folder.
        identity: of the run.
        known: digests of tensors of `state`, so that they are not computed twice.

    Raises:
        PluginError: the state has a type that cannot be saved.
    """
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    extra, inner = flatten({key: value for key, value in state.items() if key not in tensors})
    task_states, of_tasks = flatten(tasks, TASK_STATES)
    tensors |= inner | of_tasks
    known = known or {}
    digests = {
        name: known.get(name) or hashing.tensor_digest(name, tensor).hex() for name, tensor in tensors.items()
    }
    return Content(tensors, digests, _table(extra), _table(task_states), list(state), done, marks, identity)


def content_of_changes(
    changes: Changes,
    tasks: Mapping[str, Any],
    done: Sequence[str],
    marks: Marks,
    identity: Mapping[str, Any] | None,
) -> Content:
    """`make_content` for a learner of which only the changes are known."""
    extra, inner = flatten(changes.extra)
    task_states, of_tasks = flatten(tasks, TASK_STATES)
    tensors = {**changes.tensors, **inner, **of_tasks}
    digests = {
        name: changes.digests.get(name) or hashing.tensor_digest(name, tensor).hex()
        for name, tensor in tensors.items()
    }
    return Content(
        tensors,
        digests,
        _table(extra),
        _table(task_states),
        changes.keys,
        done,
        marks,
        identity,
        changes.gone,
    )


def _table(plain: Any) -> dict[str, Any]:
    """The entries of a flattened mapping with text keys."""
    return dict(plain["table"])


@attrs.frozen(eq=False)
class Step:
    """A file of a chain, as its JSON describes it."""

    path: Path
    """Of the tensors."""
    sha256: str
    """Over the JSON, and with it over the digests of the file's tensors and over all files before it."""
    predecessor: tuple[str, str] | None
    """Name and SHA-256 of the file before it."""
    done: Sequence[str]
    """Ids of the tasks that were finished since the file before it."""
    marks: Marks
    identity: Mapping[str, Any] | None
    identity_in: str
    """Name of an earlier file that has the same identity; empty if this one has it."""
    tensors: Delta[str]
    """Digests by name."""
    extra: Delta[Any]
    task_states: Delta[Any]
    order: Mapping[str, Any]
    is_former: bool = False
    """Whether it has the former layout, with all tensors."""
    former_sha256: str = ""
    """SHA-256 of the file that this one was converted from; files that followed that one follow this one."""

    @property
    def name(self) -> str:
        """``base``, ``after-001``, …"""
        return self.path.stem


class Chain:
    """The files from the first one up to some checkpoint.

    Args:
        folder: where they are.
        steps: the files, in order.
    """

    def __init__(self, folder: Path, steps: Iterable[Step] = ()) -> None:
        self.folder = folder
        self.is_newest = False
        """Whether no later file is in the folder, as after one was written."""
        self.steps: list[Step] = []
        self._indices: dict[str, int] = {}
        self.done: list[str] = []
        """Ids of the tasks that are finished."""
        self.keys: list[str] = []
        """Of the state dict, in order."""
        self.tensors: History[str] = History()
        self.extra: History[Any] = History()
        self.task_states: History[Any] = History()
        self._identities: list[tuple[str, Mapping[str, Any] | None]] = []
        for step in steps:
            self.extend(step)

    @classmethod
    def open(cls, path: Path) -> Chain:
        """The chain up to a checkpoint. Of the tensors only those of the former layout are read.

        Args:
            path: of the checkpoint's tensors.

        Raises:
            Unusable: the JSON of a file is missing or damaged.
            RunError: one cannot be read at present.
        """
        steps = [read_step(path)]
        while (before := steps[-1].predecessor) is not None:
            steps.append(read_step(path.with_name(f"{before[0]}.safetensors")))
        return cls(path.parent, reversed(steps))

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """Of the run at the last file."""
        return self._identities[-1][1] if self._identities else None

    def identity_at(self, index: int) -> Mapping[str, Any] | None:
        """Of the run at a file."""
        return self._identities[index][1]

    @property
    def digests(self) -> dict[str, str]:
        """Of the tensors of the state dict after the last file."""
        return {key: self.tensors.newest[key] for key in self.keys if key in self.tensors.newest}

    @property
    def last(self) -> int:
        """The index of the last file."""
        return len(self.steps) - 1

    def index(self, name: str) -> int | None:
        """The index of a file; None if it is not in the chain."""
        return self._indices.get(name)

    def extend(self, step: Step, keys: Sequence[str] | None = None) -> None:
        """Append a file.

        Args:
            step: the file.
            keys: those after it, if they are known; None to read them from the file.

        Raises:
            Unusable: it follows another file than the last one, or contradicts those before it.
        """
        self._check_link(step)
        try:
            number = len(self.steps)
            self.tensors.add(number, step.tensors)
            self.extra.add(number, step.extra)
            self.task_states.add(number, step.task_states)
            if keys is None:
                present = self.tensors.newest.keys() | self.extra.newest.keys()
                keys = read_order(self.keys, step.order, present)
            self.keys = list(keys)
            holders = dict(self._identities)
            holder = step.identity_in or step.name
            identity = holders[holder] if step.identity_in else step.identity
        except WRONG_CONTENT as error:
            raise Unusable(json_path(step.path), f"is damaged ({error!r})") from error
        self._identities.append((holder, identity))
        self.done += step.done
        self._indices.setdefault(step.name, number)
        self.steps.append(step)

    def _check_link(self, step: Step) -> None:
        name, expected = step.predecessor or ("", "")
        if not self.steps and not name:
            return
        before = self.steps[-1] if self.steps else None
        if before is None or name != before.name or expected not in (before.sha256, before.former_sha256):
            raise Unusable(
                json_path(step.path), f"is damaged (it follows another {name} than that of this folder)"
            )

    def write(self, name: str, content: Content) -> None:
        """Append a checkpoint and write its files; the JSON is written last.

        Raises:
            OSError: the folder is not writable.
        """
        step, text = self.plan(self.folder / f"{name}.safetensors", content)
        write_step(step, text, content.tensors)
        self.extend(step, content.keys)
        holder, _ = self._identities[-1]
        self._identities[-1] = holder, content.identity  # the same object again needs no comparison

    def plan(self, path: Path, content: Content, **more: Any) -> tuple[Step, str]:
        """The next file, and the text of its JSON.

        Args:
            path: of its tensors.
            content: of the checkpoint.
            more: further entries of the JSON.
        """
        head = self.steps[-1] if self.steps else None
        insertions = find_insertions(self.keys, content.keys)
        lost = set(self.keys).difference(content.keys) if insertions is None else set[str]()
        values: dict[str, Any] = {
            "predecessor": {"name": head.name, "sha256": head.sha256} if head else None,
            "done": list(content.done[len(self.done) :]),
            "marks": content.marks,
            **self._plan_identity(content.identity),
            "tensors": self._plan_tensors(content, lost).to_json(),
            "extra": difference(self.extra.newest, content.extra).to_json(),
            TASK_STATES: difference(self.task_states.newest, content.task_states).to_json(),
            "order": order_to_json(self.keys, content.keys)
            if insertions is None
            else {"inserted": insertions},
        }
        text = strict_json.dumps({**values, **more})
        return parse_step(path, json.loads(text), text_digest(text)), text

    def _plan_tensors(self, content: Content, lost: Collection[str]) -> Delta[str]:
        """Changed tensors, and those that are gone; `lost` are keys that are not the content's."""
        before = self.tensors.newest
        if content.gone is None:
            return difference(before, content.digests)
        changed = {name: digest for name, digest in content.digests.items() if before.get(name) != digest}
        plain = [*self.extra.newest.values(), *self.task_states.newest.values()]
        former = tensor_names(plain) if plain else set()  # tensors within other state
        gone = {name for name in (*content.gone, *former, *lost) if name in before} - content.digests.keys()
        return Delta(changed, sorted(gone))

    def _plan_identity(self, identity: Mapping[str, Any] | None) -> dict[str, Any]:
        if identity is not None and self._identities:
            holder, before = self._identities[-1]
            if before is identity or json.dumps(before) == json.dumps(identity):
                return {"identity_in": holder}
        return {"identity": identity}

    def read(self, names: Iterable[str], at: int | None = None, dropped: bool = False) -> dict[str, Tensor]:
        """Tensors by name, as they were after a file, checked against their digests.

        Args:
            names: of tensors that exist then.
            at: index of the file; None for the last one.
            dropped: leave out tensors that ``--keep last`` has dropped.

        Raises:
            Unusable: a file is missing or damaged, or has dropped a tensor.
            RunError: a file cannot be read at present.
        """
        step = self.last if at is None else at
        owners: dict[int, dict[str, str]] = {}
        for name in names:
            version = self.tensors.find(name, step)
            if version is None:
                raise Unusable(json_path(self.steps[step].path), f"is damaged (there is no tensor {name})")
            owners.setdefault(version[0], {})[name] = version[1]
        tensors: dict[str, Tensor] = {}
        for owner, digests in sorted(owners.items()):
            tensors |= read_own(self.steps[owner].path, digests, dropped)
        return tensors

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The learner's state dict, and the state of the tasks by id.

        Raises:
            Unusable, RunError: see `read`.
        """
        tensors = self.read(self.tensors.newest)
        try:
            extra = {key: unflatten(plain, tensors) for key, plain in self.extra.newest.items()}
            state = {key: extra[key] if key in extra else tensors[key] for key in self.keys}
            tasks = {key: unflatten(plain, tensors) for key, plain in self.task_states.newest.items()}
        except WRONG_CONTENT as error:
            raise Unusable(json_path(self.steps[-1].path), f"is damaged ({error!r})") from error
        return state, tasks

    def check_own(self, index: int) -> list[str]:
        """Check the tensors of one file, one after the other, and that it has no others.

        Returns:
            Those that it lacks, which a later file has replaced.

        Raises:
            Unusable: the file is missing or damaged.
            RunError: it cannot be read at present.
        """
        step = self.steps[index]
        own = step.tensors.changed
        with opened(step.path) as file:
            names = set(file.keys())
            if surplus := sorted(names - own.keys()):
                raise Unusable(step.path, f"is damaged (its JSON does not list {shorten(surplus)})")
            missing = sorted(own.keys() - names)
            if lost := [name for name in missing if not self.is_superseded(name, index)]:
                raise Unusable(step.path, f"is damaged (it lacks {shorten(lost)})")
            for name in own.keys() - set(missing):
                _check_digest(step.path, name, file.get_tensor(name), own[name])
        return missing

    def is_superseded(self, name: str, index: int) -> bool:
        """Whether a later file replaces or removes the tensor that file `index` has."""
        version = self.tensors.find(name, self.last)
        return version is None or version[0] != index


def write_step(step: Step, text: str, tensors: Mapping[str, Tensor]) -> None:
    """Write the own tensors of a file, then its JSON.

    Raises:
        OSError: the folder is not writable.
    """
    unsynced = set[Path]()  # the folder of both files
    write_tensors(step.path, {name: tensors[name] for name in step.tensors.changed}, unsynced=unsynced)
    write_text(json_path(step.path), json_text(text), unsynced)
    sync_folders(unsynced)


def json_text(text: str) -> str:
    """The content of the JSON file of a step."""
    return f'{{"state": {text}, "sha256": "{text_digest(text)}"}}\n'


def text_digest(text: str) -> str:
    """The SHA-256 of a file, which is that of its JSON."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_step(path: Path) -> Step:
    """A file of a chain, without its tensors, except in the former layout.

    Args:
        path: of its tensors.

    Raises:
        Unusable: its JSON is missing or damaged; in the former layout, its tensors are.
        RunError: it cannot be read at present.
    """
    about = read_json(json_path(path))
    try:
        values, sha256 = about["state"], str(about["sha256"])
        text = json.dumps(values)
        if "tensors" not in values:
            return _former_step(path, values, text, sha256)
        if text_digest(text) != sha256:
            raise ValueError("its SHA-256 differs from the recorded one")
        return parse_step(path, values, sha256)
    except WRONG_CONTENT as error:
        raise Unusable(json_path(path), f"is damaged ({_reason(error)})") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON of a file.

    Raises:
        Unusable: it is missing or damaged.
        RunError: it cannot be read at present.
    """
    with _at_present(path):
        text = read_text(path)
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
    except WRONG_CONTENT as error:
        raise Unusable(path, f"is damaged ({_reason(error)})") from error
    return values


def parse_step(path: Path, values: Mapping[str, Any], sha256: str) -> Step:
    """A step from its JSON.

    Raises:
        KeyError, TypeError, ValueError: it is of another form.
    """
    before = values["predecessor"]
    if before is not None and not _precedes(str(before["name"]), path.stem):
        raise ValueError(f"it follows {before['name']!r}")
    return Step(
        path=path,
        sha256=sha256,
        predecessor=(before["name"], before["sha256"]) if before is not None else None,
        done=list(values["done"]),
        marks=dict(values["marks"]),
        identity=values.get("identity"),
        identity_in=str(values.get("identity_in", "")),
        tensors=read_delta(values["tensors"]),
        extra=read_delta(values["extra"]),
        task_states=read_delta(values[TASK_STATES]),
        order=dict(values["order"]),
        former_sha256=str(values.get("former_sha256", "")),
    )


def _precedes(name: str, other: str) -> bool:
    """Whether a file can come before another one, so that no chain is endless."""
    if not NAME.fullmatch(name) or other == BASE:
        return False
    return name == BASE or not NAME.fullmatch(other) or int(name[6:]) < int(other[6:])


def _former_step(path: Path, values: Mapping[str, Any], text: str, sha256: str) -> Step:
    """A checkpoint of the former layout, which has all tensors.

    Raises:
        Unusable: its tensors are missing or damaged.
        RunError: they cannot be read at present.
        KeyError, TypeError, ValueError: its JSON is of another form.
    """
    with opened(path) as file:
        names = list(file.keys())
        digests = {name: hashing.tensor_digest(name, file.get_tensor(name)).hex() for name in names}
    if hashlib.sha256(f"{text}\n{hashing.combine(digests)}".encode()).hexdigest() != sha256:
        raise Unusable(path, "is damaged (its SHA-256 differs from the recorded one)")
    extra, states = _table(values["extra"]), values.get(TASK_STATES)
    states = _table(states) if states is not None else _table(flatten(values.get("tasks", {}))[0])
    inner = tensor_names([*extra.values(), *states.values()])
    keys = [name for name in digests if name not in inner] + list(extra)
    return Step(
        path=path,
        sha256=sha256,
        predecessor=None,
        done=list(values["done"]),
        marks=dict(values["marks"]),
        identity=values.get("identity"),
        identity_in="",
        tensors=Delta(digests),
        extra=Delta(extra),
        task_states=Delta(states),
        order={"all": keys},
        is_former=True,
    )


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file of tensors, of which those that are asked for are read.

    Raises:
        Unusable: it is missing or damaged.
        RunError: it cannot be read at present.
    """
    with _at_present(path):
        check_regular(path)
        with path.open("rb"):
            pass
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise Unusable(path, f"is damaged ({error})") from error
    except (MemoryError, OSError, RuntimeError) as error:
        reason = "not enough memory" if isinstance(error, MemoryError) else error
        raise RunError(f"cannot read {path}: {reason}; nothing was changed") from error


@contextmanager
def _at_present(path: Path) -> Iterator[None]:
    """Tell a file that is missing or damaged from one that the system cannot read at present."""
    try:
        yield
    except FileNotFoundError as error:
        raise Unusable(path, "is missing") from error
    except ValueError as error:
        raise Unusable(path, f"is damaged ({error})") from error
    except OSError as error:
        if error.errno is None or isinstance(error, IsADirectoryError):
            raise Unusable(path, f"is damaged ({error})") from error
        raise RunError(f"cannot read {path}: {error.strerror}; nothing was changed") from error


def read_own(path: Path, digests: Mapping[str, str], dropped: bool = False) -> dict[str, Tensor]:
    """Tensors of a file, checked against their digests.

    Args:
        path: of the file.
        digests: of the tensors to read, by name.
        dropped: leave out those that ``--keep last`` has dropped.

    Raises:
        Unusable, RunError: see `Chain.read`.
    """
    tensors = {}
    with opened(path) as file:
        names: Collection[str] = set(file.keys())
        missing = sorted(digests.keys() - names)
        if missing and not dropped:
            raise Unusable(
                path, f"lacks {shorten(missing)}; --keep last drops tensors that later tasks have changed"
            )
        for name, digest in digests.items():
            if name in names:
                tensors[name] = file.get_tensor(name)
                _check_digest(path, name, tensors[name], digest)
    return tensors


def _check_digest(path: Path, name: str, tensor: Tensor, digest: str) -> None:
    if hashing.tensor_digest(name, tensor).hex() != digest:
        raise Unusable(path, f"is damaged (its SHA-256 differs from the recorded one for {name})")


def json_path(path: Path) -> Path:
    """Where the JSON of a file of tensors is: in the header, if it is no file that others follow."""
    return path.with_suffix(".json") if NAME.fullmatch(path.stem) else path


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)
