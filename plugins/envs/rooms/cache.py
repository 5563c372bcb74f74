"""Rooms that were rendered before, kept on disk."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import safetensors.torch
import torch
from torch import Tensor

from sidetune_core.api import derive_seed

from .labels import INDOORS, labelled
from .scene import KINDS, sample_scene
from .shading import render

BLOCK = len(KINDS)
"""Rooms in a file, one of each kind."""
TOGETHER = 4
"""Blocks whose labels are made at once."""
LEFT_OUT = "class_object"
"""What `labelled` gives and no task has."""
BETWEEN_LINES = 10.0
"""Seconds."""

Images = Mapping[str, Tensor]


@attrs.frozen
class Rooms:
    """The rooms of a split of a series at one size, in blocks of `BLOCK`; what is made of them is a function of these and of the code."""

    series: int
    split: str
    size: int
    folder: Path | None
    """Where blocks are kept that this `generator` made; None to render them every time."""

    def images(
        self, numbers: Sequence[int], names: Sequence[str], info: Callable[[str], None]
    ) -> dict[str, Tensor]:
        """Some domains of some rooms, as `dense.task.Frames` stores them, in the order of `numbers`."""
        blocks = list(dict.fromkeys(number // BLOCK for number in numbers))
        found: dict[int, Images] = {}
        lacking = []
        for block in blocks:
            if (images := self._read(block)) is None:
                lacking.append(block)
            else:
                found[block] = {name: images[name] for name in names}
        shown, able = time.monotonic(), True
        for first in range(0, len(lacking), TOGETHER):
            for block, images in self._make(lacking[first : first + TOGETHER]).items():
                able = able and self._keep(block, images, info)
                found[block] = {name: images[name] for name in names}
            if time.monotonic() - shown > BETWEEN_LINES:
                shown = time.monotonic()
                done = BLOCK * min(first + TOGETHER, len(lacking))
                info(f"rendering rooms ({self.split}): {done} of {BLOCK * len(lacking)}")
        place = {block: BLOCK * number for number, block in enumerate(blocks)}
        rows = torch.tensor([place[number // BLOCK] + number % BLOCK for number in numbers])
        return {name: torch.cat([found[block][name] for block in blocks])[rows] for name in names}

    def _make(self, blocks: Sequence[int]) -> dict[int, Images]:
        """All domains of some blocks, rendered."""
        seed = derive_seed(self.series, self.split)
        scenes = [sample_scene(seed, BLOCK * block + number) for block in blocks for number in range(BLOCK)]
        images = labelled(scenes, render(scenes, self.size), INDOORS)
        del images[LEFT_OUT]
        spans = {block: slice(BLOCK * number, BLOCK * (number + 1)) for number, block in enumerate(blocks)}
        return {
            block: {name: values[span] for name, values in images.items()} for block, span in spans.items()
        }

    def _path(self, block: int) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / f"{self.series}-{self.split}-{self.size}" / f"{block}.rooms"

    def _read(self, block: int) -> Images | None:
        """A block that is kept, whole; None where there is none, or a damaged one."""
        path = self._path(block)
        try:
            content = path.read_bytes() if path is not None else b""
        except OSError:
            return None
        digest, packed = content[:32], content[32:]
        if hashlib.sha256(packed).digest() != digest:
            return None
        images: Images = safetensors.torch.load(zlib.decompress(packed))
        return images

    def _keep(self, block: int, images: Images, info: Callable[[str], None]) -> bool:
        """Write a block, whole or not at all, and whether that was possible; of two processes that do, the later one's stays."""
        path = self._path(block)
        if path is None:
            return False
        packed = zlib.compress(safetensors.torch.save(dict(images)), 1)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(hashlib.sha256(packed).digest() + packed)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            info(f"rooms are not kept for later runs: cannot write {path}: {error.strerror or error}")
            return False
        return True


def generator() -> str:
    """A digest of the code that makes rooms, so that none of another version is taken for one of this."""
    here = Path(__file__).parent
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted([*here.glob("*.py"), here.parent / "dense" / "geometry.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def drawn(count: int, pool: int, seed: int) -> list[int]:
    """`count` numbers of rooms: the first of a random order of the blocks of [0, pool), and beyond `pool` all from 0 on.

    More of them contain fewer, and as many as there are kinds have one room of each.
    """
    if count > pool:
        return list(range(count))
    order = torch.randperm(
        pool // BLOCK, generator=torch.Generator().manual_seed(derive_seed(seed, "images"))
    )
    numbers = BLOCK * order[:, None] + torch.arange(BLOCK)
    return [int(number) for number in numbers.flatten()[:count]]
