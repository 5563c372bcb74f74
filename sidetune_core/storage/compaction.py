"""Making run folders smaller: checkpoints of the former layout become chains, and tensors that later tasks
have replaced are dropped.

A process that is killed here leaves checkpoints that can be read: the JSON of a file is replaced before the
file loses the tensors that it no longer lists.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import attrs
import safetensors.torch

from sidetune_core.errors import RunError
from sidetune_core.storage import checkpoint
from sidetune_core.storage.atomic import sync_folder, unfinished, write_bytes, writing
from sidetune_core.storage.chain import Chain
from sidetune_core.storage.chain_file import BASE, Step, json_path, json_text, read_step
from sidetune_core.storage.checkpoint_content import Content
from sidetune_core.storage.own_files import check_own
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.tensor_files import opened, read_own
from sidetune_core.storage.unusable import Unusable

Keep = Literal["all", "last"]
"""The values of ``keep`` in ``run.json``: with ``last``, superseded tensors are dropped."""

KEEP_LAST: Keep = "last"


class Disk:
    """Replaces and deletes files, and counts the bytes that this frees.

    Args:
        dry_run: count, and change nothing.
    """

    def __init__(self, dry_run: bool = False) -> None:
        self.dry_run = dry_run
        self.freed = 0
        self._sizes: dict[Path, int] = {}
        self._sources: dict[Path, Path] = {}

    def source(self, path: Path) -> Path:
        """The file that has the tensors of `path`, which a dry run may not have written."""
        return self._sources.get(path, path)

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file, or create one."""
        self._count(path, len(data))
        if not self.dry_run:
            write_bytes(path, data)

    def write_tensors(self, path: Path, source: Path, digests: Mapping[str, str]) -> None:
        """Replace a file by one of the tensors with these digests, read from `source`, and read it back.

        Raises:
            Unusable: they have other digests; the former file stays.
        """
        tensors = read_own(source, digests)
        data = safetensors.torch.save(dict(tensors), {} if tensors else None)
        self._count(path, len(data))
        if self.dry_run:
            self._sources[path] = source
            return
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            write_bytes(temporary, data)
            read_own(temporary, digests)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)

    def delete(self, path: Path) -> None:
        """Delete a file."""
        self._count(path, 0)
        if not self.dry_run:
            path.unlink(missing_ok=True)

    def _count(self, path: Path, size: int) -> None:
        before = self._sizes.get(path)
        if before is None:
            before = path.lstat().st_size if path.is_file() else 0
        self.freed += before - size
        self._sizes[path] = size


def drop_superseded(chain: Chain, disk: Disk, newest_only: bool = False) -> None:
    """Drop the tensors that a later file of a chain replaces or removes; the JSON still has their digests.

    Args:
        chain: the files.
        disk: replaces them.
        newest_only: only what the last file replaces or removes, where this was called for those before it.

    Raises:
        Unusable: a file is missing or damaged.
        OSError: the folder is not writable.
    """
    last = chain.steps[-1] if chain.steps else None
    indices: Iterable[int] = range(chain.last)
    if newest_only and last is not None:
        names = (*last.tensors.changed, *last.tensors.gone)
        owners = (chain.tensors.find(name, chain.last - 1) for name in names)
        indices = sorted({owner[0] for owner in owners if owner is not None})
    for index in indices:
        own = chain.steps[index].tensors.changed
        kept = {name: digest for name, digest in own.items() if not chain.is_superseded(name, index)}
        _shrink(chain.steps[index].path, kept, disk)


def _shrink(path: Path, kept: Mapping[str, str], disk: Disk) -> None:
    """Leave only some tensors in a file, which are checked before and after."""
    source = disk.source(path)
    with opened(source) as file:
        if set(file.keys()) <= kept.keys():
            return
    disk.write_tensors(path, source, kept)


@attrs.frozen
class Cleaned:
    """What was done to a run folder."""

    freed: int
    """Bytes."""
    notes: tuple[str, ...]
    """What was left as it is, and why, in sentences."""


def clean(folder: RunFolder, keep: Literal["last"] | None = None, dry_run: bool = False) -> Cleaned:
    """Convert checkpoints of the former layout, and delete what an ended run does not need.

    Args:
        folder: of a run in which no process works.
        keep: ``last`` drops the tensors of earlier checkpoints that later tasks have replaced, and makes the
            run do so from now on; None for what the run was begun with.
        dry_run: change nothing.

    Raises:
        RunError: the run cannot be read.
        WriteError: the folder is not writable; what was converted before stays converted.
    """
    disk, notes = Disk(dry_run), list[str]()
    check_own(folder)
    checkpoint.check_version(folder.checkpoints)
    about = folder.read_json("run.json")
    with writing(folder.path):
        for path in (path for place in folder.folders() for path in unfinished(place)):
            disk.delete(path)
        if folder.finished and (folder.checkpoints / checkpoint.MID_TASK).is_file():
            disk.delete(folder.checkpoints / checkpoint.MID_TASK)
        if keep == KEEP_LAST and about.get("keep") != keep and not dry_run:
            folder.write_json("run.json", {**about, "keep": keep})
        chain = _convert(folder, disk, notes.append)
        if KEEP_LAST in (keep, about.get("keep")):
            try:
                drop_superseded(chain, disk)
            except Unusable as error:
                notes.append(f"{error}; no tensor was dropped")
    return Cleaned(disk.freed, tuple(notes))


def _convert(folder: RunFolder, disk: Disk, note: Callable[[str], None]) -> Chain:
    """Make one chain of all checkpoints that can be read."""
    chain = Chain(folder.checkpoints)
    for count in sorted(folder.boundaries):
        path = checkpoint.boundary(folder.checkpoints, count)
        try:
            chain = _convert_step(path, chain, folder, disk)
        except Unusable as error:
            note(f"{error}; {path.stem} was left as it is")
    return chain


def _convert_step(path: Path, chain: Chain, folder: RunFolder, disk: Disk) -> Chain:
    """Convert a checkpoint after a task; returns the chain that ends with it."""
    step = read_step(path)
    if not step.is_former:
        if not chain.steps:
            chain = Chain.open(path)
        else:
            chain.extend(step)
    else:
        if not chain.steps:
            _write_base(path, step, chain, folder, disk)
        content = Content(
            tensors={},
            digests=step.tensors.changed,
            extra=step.extra.changed,
            task_states=step.task_states.changed,
            keys=list(step.order["all"]),
            done=step.done,
            marks=step.marks,
            identity=step.identity,
        )
        converted, text = chain.plan(path, content, former_sha256=step.sha256)
        extended = Chain(chain.folder, [*chain.steps, converted])
        if extended.tensors.newest != step.tensors.changed:
            raise RunError(f"{path} cannot be converted: its digests would change")
        disk.write(json_path(path), json_text(text).encode())
        chain = extended
    _shrink(path, chain.steps[-1].tensors.changed, disk)
    return chain


def _write_base(path: Path, step: Step, chain: Chain, folder: RunFolder, disk: Disk) -> None:
    """Write the tensors that the first stage left unchanged into a file of their own."""
    line = next(iter(folder.lines("moved.jsonl")), {})
    tasks = set(step.done)
    if "moved" not in line:
        return
    changed = set(map(str, line["moved"]))
    names = [name for name in step.order["all"] if name not in changed and not tasks & set(name.split("."))]
    digests = {name: step.tensors.changed[name] for name in names if name in step.tensors.changed}
    if not digests:
        return
    content = Content({}, digests, {}, {}, list(digests))
    base, text = chain.plan(chain.folder / f"{BASE}.safetensors", content)
    disk.write_tensors(base.path, path, digests)
    disk.write(json_path(base.path), json_text(text).encode())
    chain.extend(base)
