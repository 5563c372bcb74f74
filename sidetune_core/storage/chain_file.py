"""A file of a chain of checkpoints: its tensors, and the JSON that describes them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from sidetune_core import hashing
from sidetune_core.io.files import read_text
from sidetune_core.storage.atomic import sync_folders, write_text
from sidetune_core.storage.deltas import Delta, read_delta
from sidetune_core.storage.marks import Marks
from sidetune_core.storage.nested_state import entries, flatten, tensor_names
from sidetune_core.storage.tensor_files import opened
from sidetune_core.storage.unusable import WRONG_CONTENT, Unusable, at_present, explain
from sidetune_core.storage.weights import write_tensors

BASE = "base"
"""Name of the first file."""

NAME = re.compile(r"base|after-\d{3,9}")
"""Names of files that another one can follow."""

TASK_STATES = "task_states"
"""Key of the state of tasks in the JSON, and the beginning of the names of its tensors."""


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
        raise Unusable(json_path(path), f"is damaged ({explain(error)})") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON of a file.

    Raises:
        Unusable: it is missing or damaged.
        RunError: it cannot be read at present.
    """
    with at_present(path):
        text = read_text(path)
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
    except WRONG_CONTENT as error:
        raise Unusable(path, f"is damaged ({explain(error)})") from error
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
    extra, states = entries(values["extra"]), values.get(TASK_STATES)
    states = entries(states) if states is not None else entries(flatten(values.get("tasks", {}))[0])
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


def json_path(path: Path) -> Path:
    """Where the JSON of a file of tensors is: in the header, if it is no file that others follow."""
    return path.with_suffix(".json") if NAME.fullmatch(path.stem) else path
