"""The identity of the files that were read: fingerprints, and the parts that the data consist of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.api import DataPart

from .image_set import SPLITS, Files, ImageSet
from .plan import Plan


@attrs.frozen(eq=False)
class FileDigests:
    """Digests of files by example id."""

    contents: Sequence[str] | None
    """SHA-256 of each content in hexadecimal; None to compare names and sizes only."""
    stamps: Tensor | None
    """See `Scanned`."""

    def of(self, files: Files, base: str) -> Iterator[tuple[str, str]]:
        """The name of each file, relative to `base`, and its digest."""
        assert files.ids is not None
        for path, id in zip(files.paths, files.ids.tolist(), strict=True):
            name = path[len(base) + 1 :] if path.startswith(base + os.sep) else path
            yield name, (self.contents[id] if self.contents is not None else self._of_size(name, path, id))

    def _of_size(self, name: str, path: str, id: int) -> str:
        return _of_name(name, _size(path) if self.stamps is None else int(self.stamps[id, 0]))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # it is found missing when it is decoded
        return -1


def _of_name(name: str, size: int) -> str:
    return hashlib.sha256(f"{size} {name}".encode(errors="surrogateescape")).hexdigest()


@attrs.frozen(eq=False)
class Identity:
    """What identifies a plan (see `TaskStream`)."""

    inputs: str
    """Digest of the contents in the order of their ids, and of the preprocessing."""
    data: str
    """The same with targets, and what belongs to which split."""
    parts: Mapping[str, DataPart]
    """Files of each class, by ``TASK/SPLIT/CLASS``."""


def identify(plan: Plan, digests: FileDigests, card: Mapping[str, Any]) -> Identity:
    """Digests of a plan.

    Args:
        plan: all files.
        digests: of their contents.
        card: the preprocessing.
    """
    inputs = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    data = hashlib.sha256()
    parts: dict[str, DataPart] = {}
    for split in SPLITS:
        for id, images in zip(plan.ids, plan.sets, strict=True):
            if split not in images.splits:
                continue
            files = images.splits[split]
            assert files.ids is not None
            for _, digest in digests.of(files, images.base):
                inputs.update(bytes.fromhex(digest))
            inputs.update(files.ids.numpy().tobytes())
            data.update(json.dumps([images.name, split, images.kind, images.names]).encode())
            data.update(files.targets.contiguous().numpy().tobytes())
            for name, part in _parts(images, files, digests):
                parts["/".join(filter(None, [id, split, name]))] = part
    return Identity(inputs.hexdigest(), _both(inputs, data), parts)


def _both(inputs: Any, data: Any) -> str:
    return hashlib.sha256(inputs.digest() + data.digest()).hexdigest()


def _parts(images: ImageSet, files: Files, digests: FileDigests) -> Iterator[tuple[str, DataPart]]:
    """The classes of a split, or the whole of it, without a name, where targets are no classes."""
    if images.kind != "class":
        named = zip(digests.of(files, images.base), files.targets.tolist(), strict=True)
        yield "", _part([f"{name} {digest} {values}" for (name, digest), values in named])
        return
    rows = files.targets.argsort(stable=True)  # class by class, since the lines of all take much memory
    for name, of_class in zip(images.names, torch.split(rows, images.counts_of(files)), strict=True):
        if len(of_class):
            named_files = digests.of(files.rows(of_class), images.base)
            yield name, _part([f"{file} {digest}" for file, digest in named_files])


def _part(lines: Sequence[str]) -> DataPart:
    digest = hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape"))
    return DataPart(len(lines), digest.hexdigest())
