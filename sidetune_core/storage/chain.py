"""The chain of checkpoints: each file holds the tensors that are new, or differ from those before it.

The first file, ``base.safetensors``, has the tensors that existed before the first task and that training
on it left unchanged: the frozen base. ``after-001.safetensors`` adds what the first task needs besides, and
so forth. The JSON of a file names its tensors with their SHA-256, and its predecessor with that one's
SHA-256. Its own SHA-256 covers all of this, so that the last one covers the whole chain, although writing or
checking a file takes as long as its own tensors do.

In the former layout every checkpoint has all tensors. Such a file begins a chain, which newer ones continue.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sidetune_core.errors import shorten
from sidetune_core.io import strict_json
from sidetune_core.storage.chain_file import (
    TASK_STATES,
    Step,
    json_path,
    parse_step,
    read_step,
    text_digest,
    write_step,
)
from sidetune_core.storage.checkpoint_content import Content
from sidetune_core.storage.deltas import (
    Delta,
    History,
    difference,
    find_insertions,
    order_to_json,
    read_order,
)
from sidetune_core.storage.nested_state import tensor_names, unflatten
from sidetune_core.storage.tensor_files import check_digest, opened, read_own
from sidetune_core.storage.unusable import WRONG_CONTENT, Unusable


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
                check_digest(step.path, name, file.get_tensor(name), own[name])
        return missing

    def is_superseded(self, name: str, index: int) -> bool:
        """Whether a later file replaces or removes the tensor that file `index` has."""
        version = self.tensors.find(name, self.last)
        return version is None or version[0] != index
