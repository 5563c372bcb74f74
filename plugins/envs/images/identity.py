"""The identity of the files that were read: fingerprints, and the parts that the data consist of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
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
            named = list(digests.of(files, images.base))
            for _, digest in named:
                inputs.update(bytes.fromhex(digest))
            inputs.update(files.ids.numpy().tobytes())
            data.update(json.dumps([images.name, split, images.kind, images.names]).encode())
            data.update(files.targets.contiguous().numpy().tobytes())
            parts |= _parts("/".join(filter(None, [id, split])), images, files, named)
    return Identity(inputs.hexdigest(), _both(inputs, data), parts)


def _both(inputs: Any, data: Any) -> str:
    return hashlib.sha256(inputs.digest() + data.digest()).hexdigest()


def _parts(
    start: str, images: ImageSet, files: Files, named: Sequence[tuple[str, str]]
) -> dict[str, DataPart]:
    """The parts of a split: its classes, or the whole with targets that are no classes."""
    if images.kind != "class":
        values = files.targets.tolist()
        lines = [f"{name} {digest} {value}" for (name, digest), value in zip(named, values, strict=True)]
        return {start: _part(lines)}
    by_class: list[list[str]] = [[] for _ in images.names]
    for (name, digest), label in zip(named, files.targets.tolist(), strict=True):
        by_class[label].append(f"{name} {digest}")
    return {
        f"{start}/{class_name}": _part(lines)
        for class_name, lines in zip(images.names, by_class, strict=True)
        if lines
    }


def _part(lines: Sequence[str]) -> DataPart:
    digest = hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape"))
    return DataPart(len(lines), digest.hexdigest())
