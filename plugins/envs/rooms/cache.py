"""Disk cache of rendered rooms."""

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

from .labels import INDOORS, make_labels
from .scene import KINDS, sample_scene
from .shading import render

BLOCK_ROOMS = len(KINDS)
"""Rooms in a file, one of each kind."""
BATCH_BLOCKS = 4
"""Blocks rendered at once."""
UNUSED_LABEL = "class_object"
"""A label of `make_labels` that no task uses."""
PROGRESS_INTERVAL = 10.0
"""Seconds between two lines of progress."""

Images = Mapping[str, Tensor]


@attrs.frozen
class RoomCache:
    """Rooms of one split of a series at one size, in blocks; a function of these and of the code."""

    series: int
    split: str
    size: int
    folder: Path | None
    """Folder of the cached blocks of this `source_digest`; None to render them every time."""

    def images(
        self, indices: Sequence[int], names: Sequence[str], info: Callable[[str], None]
    ) -> dict[str, Tensor]:
        """The named domains of rooms, as `dense.task.Frames` stores them, in the order of `indices`."""
        blocks = list(dict.fromkeys(index // BLOCK_ROOMS for index in indices))
        available: dict[int, Images] = {}
        missing = []
        for block in blocks:
            if (images := self._read(block)) is None:
                missing.append(block)
            else:
                available[block] = {name: images[name] for name in names}
        last_report, writable = time.monotonic(), True
        for first in range(0, len(missing), BATCH_BLOCKS):
            for block, images in self._render(missing[first : first + BATCH_BLOCKS]).items():
                writable = writable and self._write(block, images, info)
                available[block] = {name: images[name] for name in names}
            if time.monotonic() - last_report > PROGRESS_INTERVAL:
                last_report = time.monotonic()
                done = BLOCK_ROOMS * min(first + BATCH_BLOCKS, len(missing))
                info(f"rendering rooms ({self.split}): {done} of {BLOCK_ROOMS * len(missing)}")
        offset = {block: BLOCK_ROOMS * position for position, block in enumerate(blocks)}
        rows = torch.tensor([offset[index // BLOCK_ROOMS] + index % BLOCK_ROOMS for index in indices])
        return {name: torch.cat([available[block][name] for block in blocks])[rows] for name in names}

    def _render(self, blocks: Sequence[int]) -> dict[int, Images]:
        """Render all domains of blocks."""
        seed = derive_seed(self.series, self.split)
        indices = [BLOCK_ROOMS * block + k for block in blocks for k in range(BLOCK_ROOMS)]
        scenes = [sample_scene(seed, index) for index in indices]
        images = make_labels(scenes, render(scenes, self.size), INDOORS)
        del images[UNUSED_LABEL]
        rendered: dict[int, Images] = {}
        for position, block in enumerate(blocks):
            rows = slice(BLOCK_ROOMS * position, BLOCK_ROOMS * (position + 1))
            rendered[block] = {name: values[rows] for name, values in images.items()}
        return rendered

    def _path(self, block: int) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / f"{self.series}-{self.split}-{self.size}" / f"{block}.rooms"

    def _read(self, block: int) -> Images | None:
        """A cached block; None if it is absent or damaged."""
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

    def _write(self, block: int, images: Images, info: Callable[[str], None]) -> bool:
        """Write a block atomically; False if that fails.

        Of two processes that write it, the later one wins.
        """
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
            info(f"rendered rooms are not cached: cannot write {path}: {error.strerror or error}")
            return False
        return True


def source_digest() -> str:
    """A digest of the rendering code, so that cached rooms of another version are not reused."""
    folder = Path(__file__).parent
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted([*folder.glob("*.py"), folder.parent / "dense" / "geometry.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def sample_indices(count: int, pool: int, seed: int) -> list[int]:
    """Indices of `count` rooms: the first of a random order of the blocks of [0, pool), or 0 to `count`
    beyond the pool.

    A larger sample contains a smaller one of the same seed; each block has one room of each kind.
    """
    if count > pool:
        return list(range(count))
    order = torch.randperm(
        pool // BLOCK_ROOMS, generator=torch.Generator().manual_seed(derive_seed(seed, "images"))
    )
    indices = BLOCK_ROOMS * order[:, None] + torch.arange(BLOCK_ROOMS)
    return [int(index) for index in indices.flatten()[:count]]
